//! Modifiers that stand in each other's place in several chapters.

pub(super) const SETS: &str = "
    // Types: PTX ISA, Fundamental Types.
    INT16 = .u16|.s16
    INT32 = .u32|.s32
    INT64 = .u64|.s64
    INT = .INT16|.INT32|.INT64
    BITS = .b16|.b32|.b64
    PACKED_INT16 = .u16x2|.s16x2
    MEMORY_TYPE = .b8|.BITS|.b128|.u8|.s8|.INT|.f32|.f64

    // Rounding: PTX ISA, Rounding Modifiers.
    ROUND = .rn|.rz|.rm|.rp
    ROUND_TO_INT = .rni|.rzi|.rmi|.rpi

    // Comparisons and what combines them: PTX ISA, Comparison and Selection Instructions.
    COMPARE_BITS = .eq|.ne
    COMPARE = .COMPARE_BITS|.lt|.le|.gt|.ge
    COMPARE_INT = .COMPARE|.lo|.ls|.hi|.hs
    COMPARE_FLOAT = .COMPARE|.equ|.neu|.ltu|.leu|.gtu|.geu|.num|.nan
    BOOL = .and|.or|.xor

    // State spaces and windows: PTX ISA, State Spaces.
    SHARED = .shared|.shared::cta
    SHARED_WINDOW = .SHARED|.shared::cluster
    LOAD_SPACE = .const|.global|.local|.param|.param::entry|.param::func|.SHARED_WINDOW
    STORE_SPACE = .global|.local|.param|.param::func|.SHARED_WINDOW
    ATOMIC_SPACE = .global|.SHARED_WINDOW

    // Scopes: PTX ISA, Memory Consistency Model, Scope.
    SCOPE = .cta|.cluster|.gpu|.sys
    SCOPE_OF_CLUSTER = .cta|.cluster

    // Proxies: PTX ISA, membar, fence.
    PROXY = .alias|.async|.async.global|.async.SHARED_WINDOW

    // What atom and red do: PTX ISA, atom; red.
    READ_MODIFY_WRITE = .relaxed|.acquire|.release|.acq_rel
    ATOMIC_BITS = (.and|.or|.xor){.L2::cache_hint}(.b32|.b64)
    ATOMIC_ADD = .add{.L2::cache_hint}(.u32|.s32|.u64|.f32|.f64)
    ATOMIC_ADD_HALF = .add.noftz{.L2::cache_hint}(.f16|.f16x2|.bf16|.bf16x2)
    ATOMIC_COUNT = (.inc|.dec){.L2::cache_hint}.u32
    ATOMIC_EXTREME = (.min|.max){.L2::cache_hint}(.INT32|.INT64)
    ATOMIC_OPERATION = .ATOMIC_BITS|.ATOMIC_ADD|.ATOMIC_ADD_HALF|.ATOMIC_COUNT|.ATOMIC_EXTREME
    VECTOR_FLOAT = .add{.L2::cache_hint}(.v2|.v4).f32
    VECTOR_HALF = (.add|.min|.max).noftz{.L2::cache_hint}(.v2|.v4|.v8)(.f16|.bf16)
    VECTOR_PACKED = (.add|.min|.max).noftz{.L2::cache_hint}(.v2|.v4)(.f16x2|.bf16x2)
    VECTOR_OPERATION = .VECTOR_FLOAT|.VECTOR_HALF|.VECTOR_PACKED

    // Caches: PTX ISA, Cache Operators; Cache Eviction Priority Hints; ld.
    EVICT_L1 = .L1::evict_normal|.L1::evict_unchanged|.L1::evict_first|.L1::evict_last|.L1::no_allocate
    EVICT_L2 = .L2::evict_normal|.L2::evict_first|.L2::evict_last
    PREFETCH = .L2::64B|.L2::128B|.L2::256B
    STORE_HINTS = {.EVICT_L1}{.EVICT_L2}{.L2::cache_hint}
    LOAD_HINTS = .STORE_HINTS{.PREFETCH}

    // Vectors: PTX ISA, Vectors. Tensors: PTX ISA, Tensor Dimension, size and format.
    VECTOR = .v2|.v4|.v8
    DIMENSIONS = .1d|.2d|.3d|.4d|.5d
";
