// Bouncy Castle's EST client against a server: CA certificates, attributes, enrolment, renewal.
// Arguments: host:port, PEM file of the root, user, password. Prints what it got, a line for each step.

import java.io.FileInputStream;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.SecureRandom;
import java.security.Security;
import java.security.cert.CertificateFactory;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.Collections;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.X509TrustManager;
import javax.security.auth.x500.X500Principal;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.est.ESTAuth;
import org.bouncycastle.est.ESTService;
import org.bouncycastle.est.EnrollmentResponse;
import org.bouncycastle.est.jcajce.JcaHttpAuthBuilder;
import org.bouncycastle.est.jcajce.JcaJceUtils;
import org.bouncycastle.est.jcajce.JsseESTServiceBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;

public class Enrol {
    public static void main(String[] args) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        X509Certificate root;
        try (FileInputStream in = new FileInputStream(args[1])) {
            root = (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(in);
        }
        X509TrustManager trust =
            JcaJceUtils.getCertPathTrustManager(Collections.singleton(new TrustAnchor(root, null)), null)[0];
        ESTService service = new JsseESTServiceBuilder(args[0], trust).withTimeout(20000).build();

        System.out.println("cacerts " + service.getCACerts().getCertificateStore().getMatches(null).size());
        System.out.println("csrattrs " + service.getCSRAttributes().getAttributesResponse().getRequirements().size());

        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
        generator.initialize(256);
        KeyPair pair = generator.generateKeyPair();
        PKCS10CertificationRequest request =
            new JcaPKCS10CertificationRequestBuilder(new X500Principal("CN=by-bouncy-castle"), pair.getPublic())
                .build(new JcaContentSignerBuilder("SHA256withECDSA").build(pair.getPrivate()));
        ESTAuth auth = new JcaHttpAuthBuilder(args[2], args[3].toCharArray())
            .setNonceGenerator(new SecureRandom()).setProvider("BC").build();
        X509CertificateHolder first = only(service.simpleEnroll(false, request, auth));
        System.out.println("simpleenroll " + first.getSubject());

        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        X509Certificate own = new JcaX509CertificateConverter().getCertificate(first);
        store.setKeyEntry("own", pair.getPrivate(), new char[0], new X509Certificate[] {own});
        KeyManagerFactory managers = KeyManagerFactory.getInstance("PKIX");
        managers.init(store, new char[0]);
        ESTService known = new JsseESTServiceBuilder(args[0], trust)
            .withKeyManagers(managers.getKeyManagers()).withTimeout(20000).build();
        System.out.println("simplereenroll " + only(known.simpleEnroll(true, request, null)).getSubject());
    }

    private static X509CertificateHolder only(EnrollmentResponse response) throws Exception {
        return (X509CertificateHolder) response.getStore().getMatches(null).iterator().next();
    }
}
