//! Data Movement and Conversion Instructions, but for conversions and asynchronous copies.

pub(super) const FORMS: &str = "
    // mov
    mov(.pred|.BITS|.b128|.INT|.f32|.f64) d, v
    mov(.b16|.b32|.b64|.b128) d, v{2}
    mov(.b16|.b32|.b64|.b128) d{2}, r
    mov(.b32|.b64) d, v{4}
    mov(.b32|.b64) d{4}, r

    // shfl.sync
    shfl.sync(.up|.down|.bfly|.idx).b32 d{|p}, a, b, c, a

    // prmt
    prmt{.f4e|.b4e|.rc8|.ecl|.ecr|.rc16}.b32 d, a, b, c

    // ld
    ld{.weak}{.LOAD_SPACE}.LOAD_HINTS{.VECTOR}.MEMORY_TYPE d{v}, [a], r if .L2::cache_hint
    ld{.weak}{.LOAD_SPACE}(.ca|.cg|.cs|.lu|.cv){.L2::cache_hint}{.PREFETCH}{.VECTOR}.MEMORY_TYPE d{v}, [a], r if .L2::cache_hint
    ld.volatile{.LOAD_SPACE}{.PREFETCH}{.VECTOR}.MEMORY_TYPE d{v}, [a]
    ld(.relaxed|.acquire).SCOPE{.LOAD_SPACE}.LOAD_HINTS{.VECTOR}.MEMORY_TYPE d{v}, [a], r if .L2::cache_hint
    ld.mmio.relaxed.sys{.global}.MEMORY_TYPE d, [a]

    // ld.global.nc
    ld.global{.ca|.cg|.cs}.nc.LOAD_HINTS{.VECTOR}.MEMORY_TYPE d{v}, [a], r if .L2::cache_hint

    // ldu
    ldu{.global}{.v2|.v4}.MEMORY_TYPE d{v}, [a]

    // st
    st{.weak}{.STORE_SPACE}.STORE_HINTS{.VECTOR}.MEMORY_TYPE [a], v{v}, r if .L2::cache_hint
    st{.weak}{.STORE_SPACE}(.wb|.cg|.cs|.wt){.L2::cache_hint}{.VECTOR}.MEMORY_TYPE [a], v{v}, r if .L2::cache_hint
    st.volatile{.STORE_SPACE}{.VECTOR}.MEMORY_TYPE [a], v{v}
    st(.relaxed|.release).SCOPE{.STORE_SPACE}.STORE_HINTS{.VECTOR}.MEMORY_TYPE [a], v{v}, r if .L2::cache_hint
    st.mmio.relaxed.sys{.global}.MEMORY_TYPE [a], v

    // prefetch, prefetchu
    prefetch{.global|.local}(.L1|.L2) [a]
    prefetch.global(.L2::evict_last|.L2::evict_normal) [a]
    prefetch{.const|.param}.tensormap [a]
    prefetchu.L1 [a]

    // applypriority, discard
    applypriority{.global}.L2::evict_normal [a], 128
    discard{.global}.L2 [a], 128

    // createpolicy
    createpolicy.fractional(.L2::evict_last|.L2::evict_normal|.L2::evict_first|.L2::evict_unchanged){.L2::evict_first|.L2::evict_unchanged}.b64 d, x?
    createpolicy.range{.global}(.L2::evict_last|.L2::evict_normal|.L2::evict_first|.L2::evict_unchanged){.L2::evict_first|.L2::evict_unchanged}.b64 d, [a], a, b
    createpolicy.cvt.L2.b64 d, a

    // isspacep, cvta, mapa, getctarank
    isspacep(.const|.global|.local|.SHARED_WINDOW|.param|.param::entry) p, r
    cvta{.to}(.const|.global|.local|.SHARED_WINDOW|.param|.param::entry)(.u32|.u64) d, v
    mapa{.shared::cluster}(.u32|.u64) d, v, a
    getctarank{.shared::cluster}(.u32|.u64) d, v
";
