/* A PKCS#11 application for the benchmark: MODULE TOKEN PIN LABEL.  Reads lines "WHAT SECONDS" and answers each with
   a rate in operations a second.  WHAT is sign (C_SignInit and C_Sign, CKM_ECDSA), find (a whole search by label) or
   connect (C_Initialize to C_Finalize, with a session opened and closed).  PIN "-" is none.

   Types after PKCS#11 v2.40; of the function list only what is called is named. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long ulong_t;
typedef ulong_t (*function)();

struct attribute { ulong_t type; void *value; ulong_t size; };
struct mechanism { ulong_t type; void *parameter; ulong_t size; };
struct functions { struct { unsigned char major, minor; } version; function at[68]; };

enum { INITIALIZE = 0, FINALIZE = 1, GET_SLOT_LIST = 4, GET_TOKEN_INFO = 6, OPEN_SESSION = 12, CLOSE_SESSION = 13,
       LOGIN = 18, FIND_INIT = 26, FIND = 27, FIND_FINAL = 28, SIGN_INIT = 42, SIGN = 43 };

static struct functions *module;
static ulong_t slot, session, key;
static const char *token, *pin, *label;

static void check(ulong_t rv, const char *what) {
    if (rv) {
        fprintf(stderr, "%s: %#lx\n", what, rv);
        exit(1);
    }
}

static void start(void) {
    check(module->at[INITIALIZE](NULL), "C_Initialize");
}

static void find_slot(void) {
    ulong_t slots[64], count = 64, i;
    check(module->at[GET_SLOT_LIST](1, slots, &count), "C_GetSlotList");
    for (i = 0; i < count; i++) {
        unsigned char info[512];
        char name[33];
        check(module->at[GET_TOKEN_INFO](slots[i], info), "C_GetTokenInfo");
        memcpy(name, info, 32);
        for (name[32] = 0; strlen(name) && name[strlen(name) - 1] == ' ';)
            name[strlen(name) - 1] = 0;
        if (!strcmp(name, token)) {
            slot = slots[i];
            return;
        }
    }
    fprintf(stderr, "no token %s\n", token);
    exit(1);
}

static void open_session(void) {
    check(module->at[OPEN_SESSION](slot, 6UL, NULL, NULL, &session), "C_OpenSession");
}

static void find(void) {
    ulong_t class = 3, count = 0;
    struct attribute wanted[] = {{0, &class, sizeof class}, {3, (void *)label, strlen(label)}};
    check(module->at[FIND_INIT](session, wanted, 2UL), "C_FindObjectsInit");
    check(module->at[FIND](session, &key, 1UL, &count), "C_FindObjects");
    check(module->at[FIND_FINAL](session), "C_FindObjectsFinal");
    if (count != 1) {
        fprintf(stderr, "no key %s\n", label);
        exit(1);
    }
}

static void sign(void) {
    struct mechanism ecdsa = {0x1041, NULL, 0};
    unsigned char digest[32] = {1}, signature[128];
    ulong_t size = sizeof signature;
    check(module->at[SIGN_INIT](session, &ecdsa, key), "C_SignInit");
    check(module->at[SIGN](session, digest, 32UL, signature, &size), "C_Sign");
}

static void log_in(void) {
    if (strcmp(pin, "-"))
        check(module->at[LOGIN](session, 1UL, pin, strlen(pin)), "C_Login");
}

static void finish(void) {
    check(module->at[FINALIZE](NULL), "C_Finalize");
}

static void connect_once(void) {
    start();
    open_session();
    check(module->at[CLOSE_SESSION](session), "C_CloseSession");
    finish();
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int count, char **arguments) {
    char what[16];
    double seconds;
    ulong_t (*get)(struct functions **);
    void *library;

    if (count != 5 || !(library = dlopen(arguments[1], RTLD_NOW))) {
        fprintf(stderr, "%s\n", count == 5 ? dlerror() : "MODULE TOKEN PIN LABEL");
        return 1;
    }
    token = arguments[2], pin = arguments[3], label = arguments[4];
    *(void **)&get = dlsym(library, "C_GetFunctionList");
    check(get(&module), "C_GetFunctionList");
    start();
    find_slot();
    open_session();
    log_in();
    find();
    printf("ready\n");
    fflush(stdout);
    while (scanf("%15s %lf", what, &seconds) == 2) {
        void (*once)(void) = !strcmp(what, "sign") ? sign : !strcmp(what, "find") ? find : connect_once;
        double begun, at;
        long done = 0;
        if (once == connect_once)
            finish();
        begun = now();
        while ((at = now()) < begun + seconds) {
            once();
            done++;
        }
        if (once == connect_once) {
            start();
            open_session();
            log_in();
            find();
        }
        printf("%f\n", done / (at - begun));
        fflush(stdout);
    }
    return 0;
}
