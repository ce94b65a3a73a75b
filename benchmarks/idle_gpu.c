/* A CUDA device that computes nothing: what torch's CUDA build calls of the CUDA runtime, the driver, cuBLAS and NCCL.

Loaded before torch (LD_PRELOAD), as libcuda.so.1 too. Memory is address space of this machine, given out and taken
back as asked, so that torch's own allocator counts what a GPU's would hold; kernels are counted and not run. Functions
that need no thought stand in idle_gpu_simple.c. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda_runtime_api.h"
#undef cudaGetDeviceProperties

/* What the worker reads. */
long idle_kernels, idle_waits;

/* Ranges of memory that were given out. */
#define MOST_RANGES 65536
static struct { char *start; size_t size; int on_device; } ranges[MOST_RANGES];
static int num_ranges;

static void *give_out(size_t size, int on_device)
{
    void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int i = 0;
    while (i < num_ranges && ranges[i].start != NULL)
        i++;
    if (start == MAP_FAILED || i == MOST_RANGES)
        return NULL;
    num_ranges = i == num_ranges ? i + 1 : num_ranges;
    ranges[i].start = start;
    ranges[i].size = size;
    ranges[i].on_device = on_device;
    return start;
}

static cudaError_t take_back(void *start)
{
    for (int i = 0; start != NULL && i < num_ranges; i++)
        if (ranges[i].start == start) {
            munmap(start, ranges[i].size);
            ranges[i].start = NULL;
        }
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t size)
{
    return (*memory = give_out(size, 1)) ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *memory) { return take_back(memory); }

cudaError_t cudaHostAlloc(void **memory, size_t size, unsigned flags)
{
    return (*memory = give_out(size + 1, 0)) ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *memory) { return take_back(memory); }

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *memory)
{
    memset(attributes, 0, sizeof *attributes);
    attributes->type = cudaMemoryTypeUnregistered;
    for (int i = 0; i < num_ranges; i++)
        if (ranges[i].start != NULL && (size_t)((char *)memory - ranges[i].start) < ranges[i].size)
            attributes->type = ranges[i].on_device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    attributes->devicePointer = attributes->hostPointer = (void *)memory;
    return cudaSuccess;
}

/* Small copies are made, since sizes and names travel by them; a model's weights would only fill the host's memory. */
static cudaError_t copy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
    if (kind == cudaMemcpyDeviceToHost || size <= 1 << 22)
        memcpy(to, from, size);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    return copy(to, from, size, kind);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
    idle_waits++;
    return copy(to, from, size, kind);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { idle_waits++; return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { idle_waits++; return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { idle_waits++; return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    *milliseconds = 1;
    return cudaSuccess;
}

/* The device: an H100's figures, by which torch and Triton choose their kernels. */
#define MEMORY (80ul << 30)
cudaError_t cudaGetDeviceCount(int *count)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    *count = visible == NULL || *visible;
    return *count ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDevice(int *device) { *device = 0; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t *available, size_t *all) { *available = *all = MEMORY; return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    switch ((int)attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    default: *value = 1;
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *it, int device)
{
    memset(it, 0, sizeof *it);
    strcpy(it->name, "idle device with the figures of an H100");
    it->totalGlobalMem = MEMORY;
    it->major = 9;
    it->multiProcessorCount = 132;
    it->warpSize = 32;
    it->maxThreadsPerMultiProcessor = 2048;
    it->maxThreadsPerBlock = 1024;
    it->sharedMemPerBlock = 49152;
    it->sharedMemPerBlockOptin = 232448;
    it->sharedMemPerMultiprocessor = 233472;
    it->regsPerBlock = it->regsPerMultiprocessor = 65536;
    it->l2CacheSize = 50 << 20;
    it->maxGridSize[0] = 2147483647;
    it->maxGridSize[1] = it->maxGridSize[2] = 65535;
    return cudaSuccess;
}

/* Kernels: registered with nobody, launched into nothing. */
void **__cudaRegisterFatBinary(void *binary) { static void *handle; return &handle; }
char __cudaInitModule(void **handle) { return 1; }
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) { return 0; }
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream)
{
    *shared = 0;
    *(void **)stream = NULL;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function)
{
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

cudaError_t cudaGetSymbolAddress(void **address, const void *symbol)
{
    static char symbols[65536];
    *address = symbols;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int size,
                                                                   size_t shared, unsigned flags)
{
    *blocks = 2;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function)
{
    memset(attributes, 0, sizeof *attributes);
    attributes->ptxVersion = attributes->binaryVersion = 90;
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *id, cudaGraph_t *graph,
                                     const cudaGraphNode_t **dependencies, const cudaGraphEdgeData **edges,
                                     size_t *count)
{
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error) { return "an error of the idle device"; }
const char *cudaGetErrorName(cudaError_t error) { return "idleDeviceError"; }

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result)
{
    *function = dlsym(RTLD_DEFAULT, name);
    if (result != NULL)
        *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

/* cuBLAS: any algorithm will do. */
size_t cublasLtGetVersion(void) { return 130000; }

/* The size of cublasLtMatmulHeuristicResult_t, whose header needs more headers than torch brings. */
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *product, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, void *results, int *found)
{
    memset(results, 0, 96);
    *found = 1;
    return 0;
}

/* The driver, as Triton asks it: attributes have the runtime's numbers. */
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    return cudaDeviceGetAttribute(value, attribute, device);
}

int cuDriverGetVersion(int *version) { return cudaDriverGetVersion(version); }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuCtxGetCurrent(void **context) { static int it; *context = &it; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return cuCtxGetCurrent(context); }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) { *flags = 0; *is_active = 1; return 0; }
int cuFuncGetAttribute(int *value, int attribute, void *function)
{
    *value = attribute == 4 ? 32 : attribute == 0 ? 1024 : 0;
    return 0;
}

int cuGetErrorString(int error, const char **text) { *text = "an error of the idle device"; return 0; }
int cuPointerGetAttribute(void *value, int attribute, unsigned long long memory)
{
    *(unsigned long long *)value = memory;
    return 0;
}

/* NCCL: one rank. */
int ncclCommGetAsyncError(void *communicator, int *error) { *error = 0; return 0; }
const char *ncclGetErrorString(int error) { return "an error of the idle device"; }
const char *ncclGetLastError(void *communicator) { return ""; }
int ncclAllGather(const void *from, void *to, size_t count, int type)
{
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return from == to ? 0 : copy(to, from, count * sizes[type], cudaMemcpyDeviceToDevice);
}
