/* The part of idle_gpu.c that needs no headers, whose prototypes it would contradict: functions that count a kernel,
make a handle, or do nothing, and succeed. */
#include <stdlib.h>

extern long idle_kernels;

#define KERNEL(name) int name(void) { idle_kernels++; return 0; }
#define HANDLE(name) int name(void **handle) { *handle = malloc(64); return 0; }
#define NOTHING(name) int name(void) { return 0; }

KERNEL(cudaLaunchKernel)
KERNEL(cudaLaunchKernelExC)
KERNEL(__cudaLaunchKernel)
KERNEL(cudaMemsetAsync)
KERNEL(cublasGemmEx)
KERNEL(cublasGemmStridedBatchedEx)
KERNEL(cublasLtMatmul)
KERNEL(cublasSgemm_v2)
KERNEL(cublasSgemmEx)
KERNEL(cublasSgemmStridedBatched)
KERNEL(cuLaunchKernel)
KERNEL(cuLaunchKernelEx)

HANDLE(cudaEventCreate)
HANDLE(cudaEventCreateWithFlags)
HANDLE(cudaStreamCreate)
HANDLE(cudaStreamCreateWithFlags)
HANDLE(cudaStreamCreateWithPriority)
HANDLE(cublasCreate_v2)
HANDLE(cublasLtMatmulDescCreate)
HANDLE(cublasLtMatrixLayoutCreate)
HANDLE(cublasLtMatmulPreferenceCreate)
HANDLE(ncclCommInitRank)
HANDLE(ncclCommInitRankConfig)
HANDLE(cuModuleLoadData)
HANDLE(cuModuleLoadDataEx)
HANDLE(cuModuleGetFunction)

/* The driver's: torch and Triton look them up by name. */
NOTHING(cuInit)
NOTHING(cuCtxSetCurrent)
NOTHING(cuCtxGetLimit)
NOTHING(cuCtxSetLimit)
NOTHING(cuModuleLoad)
NOTHING(cuModuleUnload)
NOTHING(cuFuncSetAttribute)
NOTHING(cuFuncSetCacheConfig)
NOTHING(cuOccupancyMaxActiveClusters)
NOTHING(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOTHING(cuTensorMapEncodeTiled)
NOTHING(cuLaunchCooperativeKernel)
NOTHING(cuLinkAddData_v2)
NOTHING(cuLinkComplete)
NOTHING(cuLinkCreate_v2)

/* idle_gpu.py appends NOTHING(…) for everything else that torch's libraries want. */
