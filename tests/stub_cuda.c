/* A libcuda.so.1 without a GPU, for tests/test_cuda_driver.py: memory is the host's, functions
 * write their names into a log, and a launch calls back with the kernel's name, blocks and
 * arguments. What is not here the bindings report as missing. CYOPT_STUB_* variables set what the
 * driver tells.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_BYTES 65536
#define MAX_KERNELS 256
#define MAX_CONTEXTS 8
#define CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL 9
#define CUDA_ERROR_INVALID_VALUE 1
#define CUDA_ERROR_NO_DEVICE 100
#define CUDA_ERROR_INVALID_CONTEXT 201
#define CUDA_ERROR_NOT_FOUND 500
#define CUDA_ERROR_LAUNCH_FAILED 719
#define CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED 900
#define CAPTURE_MODE_RELAXED 2

typedef void on_launch(const char *kernel, unsigned blocks, unsigned threads, void *stream,
                       void **arguments);

static char log_text[LOG_BYTES];
static on_launch *launched;
static const char *kernels[MAX_KERNELS];
static intptr_t n_kernels, n_handles = 0x10000;
static void *contexts[MAX_CONTEXTS], **current = contexts; /* a stack, and its top */
static int capture_mode;                                   /* of the only thread */

static void record(const char *name)
{
    if (strlen(log_text) + strlen(name) + 2 < LOG_BYTES)
        strcat(strcat(log_text, name), "\n");
}

/* What a function does beside being called. */
#define CALL(...)                                                                                  \
    record(__func__);                                                                              \
    __VA_ARGS__;                                                                                   \
    return 0

static int number(const char *variable, int otherwise)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : otherwise;
}

static void *new_handle(void)
{
    return (void *)(n_handles += 16);
}

/* For the tests. */
const char *stub_log(void)
{
    return log_text;
}

void stub_clear(void)
{
    log_text[0] = 0;
}

/* The number of the device whose context is current; below 0: none. */
int stub_current(void)
{
    return (int)((intptr_t)*current - 0x1000);
}

void stub_on_launch(on_launch *function)
{
    launched = function;
}

/* Devices and contexts. The only one there is has the address 0x1000 + its number. */
int cuInit(unsigned flags)
{
    (void)flags;
    record(__func__);
    return number("CYOPT_STUB_DEVICES", 1) ? 0 : CUDA_ERROR_NO_DEVICE;
}
int cuDriverGetVersion(int *v)
{
    *v = number("CYOPT_STUB_VERSION", 13000);
    return 0;
}
int cuDeviceGetCount(int *n)
{
    *n = number("CYOPT_STUB_DEVICES", 1);
    return 0;
}
int cuDeviceGet(int *d, int i)
{
    *d = i;
    return 0;
}
int cuDeviceGetName(char *name, int n, int d)
{
    snprintf(name, (size_t)n, "Stub %d", d);
    return 0;
}
int cuDeviceGetUuid(char *uuid, int d)
{
    memset(uuid, d, 16);
    return 0;
}
int cuDeviceGetAttribute(int *v, int a, int d)
{
    (void)d;
    *v = a == 75 ? 9 : a == 76 ? 0 : 1; /* compute capability 9.0 */
    return 0;
}
int cuDevicePrimaryCtxRetain(void **c, int d)
{
    CALL(*c = (void *)(intptr_t)(0x1000 + d));
}
int cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a)
{
    (void)d;
    *f = 0;
    *a = 1;
    return 0;
}
int cuCtxGetCurrent(void **c)
{
    CALL(*c = *current);
}
int cuCtxSetCurrent(void *c)
{
    CALL(*current = c);
}
int cuCtxPushCurrent(void *c)
{
    CALL(*++current = c);
}
int cuCtxPopCurrent(void **c)
{
    CALL(*c = *current--);
}
int cuCtxGetDevice(int *d)
{
    if (!*current) {
        record(__func__);
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    CALL(*d = (int)((intptr_t)*current - 0x1000));
}
int cuCtxSynchronize(void)
{
    CALL();
}
int cuCtxGetApiVersion(void *c, unsigned *v)
{
    (void)c;
    *v = 13000;
    return 0;
}

/* Memory. */
int cuMemAlloc(void **p, size_t n)
{
    CALL(*p = aligned_alloc(256, (n + 255) / 256 * 256));
}
int cuMemFree(void *p)
{
    CALL(free(p));
}
int cuMemAllocHost(void **p, size_t n)
{
    CALL(*p = aligned_alloc(256, (n + 255) / 256 * 256));
}
int cuMemHostAlloc(void **p, size_t n, unsigned f)
{
    CALL((void)f; *p = aligned_alloc(256, (n + 255) / 256 * 256));
}
int cuMemFreeHost(void *p)
{
    CALL(free(p));
}
int cuMemsetD8(void *p, unsigned char x, size_t n)
{
    CALL(memset(p, x, n));
}
int cuMemcpyHtoD(void *to, const void *from, size_t n)
{
    CALL(memcpy(to, from, n));
}
int cuMemcpyDtoH(void *to, const void *from, size_t n)
{
    CALL(memcpy(to, from, n));
}
int cuMemcpyDtoD(void *to, const void *from, size_t n)
{
    CALL(memcpy(to, from, n));
}
int cuMemcpyHtoDAsync(void *to, const void *from, size_t n, void *s)
{
    CALL((void)s; memcpy(to, from, n));
}
int cuMemcpyDtoDAsync(void *to, const void *from, size_t n, void *s)
{
    CALL((void)s; memcpy(to, from, n));
}
int cuMemsetD8Async(void *p, unsigned char x, size_t n, void *s)
{
    CALL((void)s; memset(p, x, n));
}
int cuPointerGetAttribute(void *value, int attribute, void *p)
{
    (void)p;
    record(__func__);
    if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
        *(int *)value = number("CYOPT_STUB_ORDINAL", 0);
    else
        *(void **)value = NULL;
    return 0;
}

/* Code. */
int cuLibraryLoadData(void **l, const void *c, void *a, void *b, unsigned n, void *d, void *e,
                      unsigned m)
{
    CALL((void)c, (void)a, (void)b, (void)n, (void)d, (void)e, (void)m; *l = new_handle());
}
int cuLibraryUnload(void *l)
{
    CALL((void)l);
}
int cuLibraryGetKernel(void **k, void *l, const char *name)
{
    (void)l;
    record(__func__);
    kernels[n_kernels] = strdup(name);
    *k = (void *)(++n_kernels);
    return 0;
}
int cuKernelGetFunction(void **f, void *k)
{
    *f = k;
    return 0;
}
int cuFuncLoad(void *f)
{
    CALL((void)f);
}
int cuKernelGetAttribute(int *v, int a, void *k, int d)
{
    (void)a, (void)k, (void)d;
    *v = 0;
    return 0;
}
int cuLaunchKernel(void *f, unsigned grid, unsigned grid_y, unsigned grid_z, unsigned block,
                   unsigned block_y, unsigned block_z, unsigned shared, void *stream,
                   void **arguments, void **extra)
{
    record(__func__);
    if (grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1 || shared || extra)
        return CUDA_ERROR_INVALID_VALUE;
    if (number("CYOPT_STUB_REFUSES", 0))
        return CUDA_ERROR_LAUNCH_FAILED;
    if (launched)
        launched(kernels[(intptr_t)f - 1], grid, block, stream, arguments);
    return 0;
}

/* Streams and events: everything is done at once. */
int cuStreamIsCapturing(void *s, int *state)
{
    CALL((void)s; *state = number("CYOPT_STUB_CAPTURING", 0));
}
int cuThreadExchangeStreamCaptureMode(int *mode)
{
    const int before = capture_mode;
    capture_mode = *mode;
    CALL(*mode = before);
}
int cuStreamWaitEvent(void *s, void *e, unsigned f)
{
    CALL((void)s, (void)e, (void)f);
}
int cuStreamGetCtx(void *s, void **c)
{
    CALL((void)s; *c = *current);
}
int cuStreamGetFlags(void *s, unsigned *f)
{
    (void)s;
    *f = 0;
    return 0;
}
int cuStreamSynchronize(void *s)
{
    CALL((void)s);
}
int cuEventCreate(void **e, unsigned f)
{
    CALL((void)f; *e = new_handle());
}
int cuEventRecord(void *e, void *s)
{
    CALL((void)e, (void)s);
}
int cuEventQuery(void *e)
{
    (void)e;
    record(__func__);
    return number("CYOPT_STUB_CAPTURED_ELSEWHERE", 0) && capture_mode != CAPTURE_MODE_RELAXED
               ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
               : 0;
}
int cuEventSynchronize(void *e)
{
    CALL((void)e);
}
int cuEventDestroy(void *e)
{
    CALL((void)e);
}

int cuGetErrorName(int e, const char **s)
{
    (void)e;
    *s = "CUDA_ERROR_STUB";
    return 0;
}
int cuGetErrorString(int e, const char **s)
{
    (void)e;
    *s = "an error of the stub";
    return 0;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    (void)version, (void)flags;
    static void *self;
    if (!self) {
        Dl_info info;
        dladdr((void *)cuInit, &info);
        self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }
    /* Of one name the driver gives the newest version. */
    *function = dlsym(self, strcmp(name, "cuGetProcAddress") ? name : "cuGetProcAddress_v2");
    if (status)
        *status = *function ? 0 : 1;
    return *function ? 0 : CUDA_ERROR_NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
