/* A PKCS#11 module that forwards every call to a real one, and fails on purpose where a file tells it to.
 *
 * It finds everything beside itself: real.so is the real module, control/ holds the faults. control/C_Sign has the
 * fault of C_Sign as "ACTION NUMBER TIMES": the last line that is left counts down under a lock, so that a fault
 * that is meant once happens once, in whichever process; TIMES -1 is for ever. control/calls/C_Sign, where the
 * folder is there, gets one byte per call. See __init__.py for the actions.
 *
 * All functions of PKCS#11 take at most eight arguments, each a pointer or an integer. Passing eight on is right on
 * the calling conventions of Linux on x86-64 and AArch64, whatever the function takes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word);

#define FUNCTIONS 68
#define C_GET_FUNCTION_LIST 3
#define C_DESTROY_OBJECT 22

static const char *const names[FUNCTIONS] = {
    "C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList", "C_GetSlotList", "C_GetSlotInfo",
    "C_GetTokenInfo", "C_GetMechanismList", "C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN",
    "C_OpenSession", "C_CloseSession", "C_CloseAllSessions", "C_GetSessionInfo", "C_GetOperationState",
    "C_SetOperationState", "C_Login", "C_Logout", "C_CreateObject", "C_CopyObject", "C_DestroyObject",
    "C_GetObjectSize", "C_GetAttributeValue", "C_SetAttributeValue", "C_FindObjectsInit", "C_FindObjects",
    "C_FindObjectsFinal", "C_EncryptInit", "C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal", "C_DecryptInit",
    "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal", "C_DigestInit", "C_Digest", "C_DigestUpdate", "C_DigestKey",
    "C_DigestFinal", "C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal", "C_SignRecoverInit", "C_SignRecover",
    "C_VerifyInit", "C_Verify", "C_VerifyUpdate", "C_VerifyFinal", "C_VerifyRecoverInit", "C_VerifyRecover",
    "C_DigestEncryptUpdate", "C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate",
    "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey", "C_SeedRandom",
    "C_GenerateRandom", "C_GetFunctionStatus", "C_CancelFunction", "C_WaitForSlotEvent",
};

struct list {
    unsigned char major, minor;
    function entries[FUNCTIONS];
};

static struct list *real;
static struct list ours;
static char directory[PATH_MAX];

struct fault {
    char action[24];
    unsigned long number;
    long times;
};

static void path_of(char *path, const char *middle, const char *name) {
    snprintf(path, PATH_MAX, "%s/%s/%s", directory, middle, name);
}

/* The fault of a function, taken once; 0 where it has none. */
static int take(const char *name, struct fault *fault) {
    char path[PATH_MAX], text[128] = "";
    int there = 0;
    path_of(path, "control", name);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return 0;
    flock(file, LOCK_EX);
    if (read(file, text, sizeof text - 1) > 0 &&
        sscanf(text, "%23s %lu %ld", fault->action, &fault->number, &fault->times) == 3 && fault->times != 0) {
        there = 1;
        if (fault->times > 0) {
            int length = snprintf(text, sizeof text, "%s %lu %ld\n", fault->action, fault->number, fault->times - 1);
            if (pwrite(file, text, (size_t)length, 0) != length || ftruncate(file, length)) abort();
        }
    }
    close(file);
    return there;
}

static void count(const char *name) {
    char path[PATH_MAX];
    path_of(path, "control/calls", name);
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0) return;
    if (write(file, ".", 1) != 1) abort();
    close(file);
}

static void wait_for(unsigned long milliseconds) {
    struct timespec left = {(time_t)(milliseconds / 1000), (long)(milliseconds % 1000) * 1000000};
    while (nanosleep(&left, &left)) {}
}

static int is(const struct fault *fault, const char *action) { return !strcmp(fault->action, action); }

static word pass(int index, word a, word b, word c, word d, word e, word f, word g, word h) {
    struct fault fault;
    word code;
    count(names[index]);
    if (!take(names[index], &fault)) return real->entries[index](a, b, c, d, e, f, g, h);
    if (is(&fault, "return")) return fault.number;
    if (is(&fault, "abort")) abort();
    if (is(&fault, "hang")) wait_for(fault.number);
    code = real->entries[index](a, b, c, d, e, f, g, h);
    if (is(&fault, "then-return")) return fault.number;
    if (is(&fault, "then-abort")) abort();
    if (is(&fault, "then-hang")) wait_for(fault.number);
    if (is(&fault, "half") || is(&fault, "half-abort")) {
        /* C_GenerateKeyPair: the private half is the last argument. */
        if (!code) real->entries[C_DESTROY_OBJECT](a, *(word *)h, 0, 0, 0, 0, 0, 0);
        if (is(&fault, "half-abort")) abort();
        return fault.number;
    }
    return code;
}

#define WRAPPER(n) \
    static word wrapper_##n(word a, word b, word c, word d, word e, word f, word g, word h) { \
        return pass(n, a, b, c, d, e, f, g, h); \
    }
#define EACH(X) \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) \
    X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31) X(32) X(33) X(34) X(35) X(36) X(37) \
    X(38) X(39) X(40) X(41) X(42) X(43) X(44) X(45) X(46) X(47) X(48) X(49) X(50) X(51) X(52) X(53) X(54) X(55) \
    X(56) X(57) X(58) X(59) X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
EACH(WRAPPER)
#define NAME(n) wrapper_##n,
static const function wrappers[FUNCTIONS] = {EACH(NAME)};

word C_GetFunctionList(struct list **list) {
    Dl_info here;
    char path[PATH_MAX];
    word (*get)(struct list **);
    if (!real) {
        if (!dladdr((void *)C_GetFunctionList, &here) || !realpath(here.dli_fname, directory)) return 5;
        *strrchr(directory, '/') = 0;
        snprintf(path, sizeof path, "%s/real.so", directory);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        *(void **)&get = library ? dlsym(library, "C_GetFunctionList") : NULL;
        if (!get || get(&real)) return 5;
        ours = *real;
        memcpy(ours.entries, wrappers, sizeof wrappers);
        *(void **)&ours.entries[C_GET_FUNCTION_LIST] = (void *)C_GetFunctionList;
    }
    *list = &ours;
    return 0;
}
