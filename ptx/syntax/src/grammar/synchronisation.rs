//! Parallel Synchronization and Communication Instructions, but for mbarrier.

pub(super) const FORMS: &str = "
    // bar, barrier
    bar{.cta}.sync a, b?
    bar{.cta}.arrive a, b
    bar{.cta}.red.popc.u32 d, a, b?, !p
    bar{.cta}.red(.and|.or).pred p, a, b?, !p
    barrier{.cta}.sync{.aligned} a, b?
    barrier{.cta}.arrive{.aligned} a, b
    barrier{.cta}.red.popc{.aligned}.u32 d, a, b?, !p
    barrier{.cta}.red(.and|.or){.aligned}.pred p, a, b?, !p

    // bar.warp.sync
    bar.warp.sync a

    // barrier.cluster
    barrier.cluster.arrive{.release|.relaxed}{.aligned}
    barrier.cluster.wait{.acquire}{.aligned}

    // membar, fence
    membar(.cta|.gl|.sys)
    membar.proxy.PROXY
    fence{.sc|.acq_rel|.acquire|.release}.SCOPE
    fence.acquire.sync_restrict::shared::cluster.cluster
    fence.release.sync_restrict::shared::cta.cluster
    fence.mbarrier_init.release.cluster
    fence.proxy.PROXY
    fence.proxy.tensormap::generic.release.SCOPE
    fence.proxy.tensormap::generic.acquire.SCOPE [a], 128
    fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster
    fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster

    // atom
    atom{.READ_MODIFY_WRITE}{.SCOPE}{.ATOMIC_SPACE}.ATOMIC_OPERATION d_, [a], v, r if .L2::cache_hint
    atom{.READ_MODIFY_WRITE}{.SCOPE}{.ATOMIC_SPACE}.exch{.L2::cache_hint}(.b32|.b64|.b128) d_, [a], v, r if .L2::cache_hint
    atom{.READ_MODIFY_WRITE}{.SCOPE}{.ATOMIC_SPACE}.cas{.L2::cache_hint}(.BITS|.b128) d_, [a], v, v, r if .L2::cache_hint
    atom{.READ_MODIFY_WRITE}{.SCOPE}{.global}.VECTOR_OPERATION d{v}, [a], v{v}, r if .L2::cache_hint

    // red
    red{.relaxed|.release}{.SCOPE}{.ATOMIC_SPACE}.ATOMIC_OPERATION [a], v, r if .L2::cache_hint
    red{.relaxed|.release}{.SCOPE}{.global}.VECTOR_OPERATION [a], v{v}, r if .L2::cache_hint

    // vote.sync, match.sync, redux.sync
    vote.sync(.all|.any|.uni).pred p, !p, a
    vote.sync.ballot.b32 d, !p, a
    match.any.sync(.b32|.b64) d, a, b
    match.all.sync(.b32|.b64) d{|p}, a, b
    redux.sync(.add|.min|.max).INT32 d, r, a
    redux.sync(.and|.or|.xor).b32 d, r, a

    // activemask, elect.sync
    activemask.b32 d
    elect.sync d|p, a

    // griddepcontrol
    griddepcontrol(.wait|.launch_dependents)
";
