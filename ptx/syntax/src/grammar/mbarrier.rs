//! Parallel Synchronization and Communication Instructions: mbarrier.

pub(super) const FORMS: &str = "
    // mbarrier.init, mbarrier.inval
    mbarrier.init{.SHARED}.b64 [a], a
    mbarrier.inval{.SHARED}.b64 [a]

    // mbarrier.expect_tx, mbarrier.complete_tx
    mbarrier.expect_tx{.relaxed}{.SCOPE_OF_CLUSTER}{.SHARED_WINDOW}.b64 [a], a
    mbarrier.complete_tx{.relaxed}{.SCOPE_OF_CLUSTER}{.SHARED_WINDOW}.b64 [a], a

    // mbarrier.arrive
    mbarrier.arrive{.release|.relaxed}{.SCOPE_OF_CLUSTER}{.SHARED}.b64 d_, [a], a?
    mbarrier.arrive{.release|.relaxed}{.SCOPE_OF_CLUSTER}.shared::cluster.b64 _, [a], a?
    mbarrier.arrive.expect_tx{.release|.relaxed}{.SCOPE_OF_CLUSTER}{.SHARED}.b64 d_, [a], a
    mbarrier.arrive.expect_tx{.release|.relaxed}{.SCOPE_OF_CLUSTER}.shared::cluster.b64 _, [a], a
    mbarrier.arrive.noComplete{.release.cta}{.SHARED}.b64 d_, [a], a

    // mbarrier.arrive_drop
    mbarrier.arrive_drop{.release|.relaxed}{.SCOPE_OF_CLUSTER}{.SHARED}.b64 d_, [a], a?
    mbarrier.arrive_drop{.release|.relaxed}{.SCOPE_OF_CLUSTER}.shared::cluster.b64 _, [a], a?
    mbarrier.arrive_drop.expect_tx{.release|.relaxed}{.SCOPE_OF_CLUSTER}{.SHARED}.b64 d_, [a], a
    mbarrier.arrive_drop.expect_tx{.release|.relaxed}{.SCOPE_OF_CLUSTER}.shared::cluster.b64 _, [a], a
    mbarrier.arrive_drop.noComplete{.release.cta}{.SHARED}.b64 d_, [a], a

    // mbarrier.test_wait, mbarrier.try_wait; the state or parity, and a time in nanoseconds
    mbarrier.test_wait{.parity}{.acquire|.relaxed}{.SCOPE_OF_CLUSTER}{.SHARED}.b64 p, [a], a
    mbarrier.try_wait{.parity}{.acquire|.relaxed}{.SCOPE_OF_CLUSTER}{.SHARED}.b64 p, [a], a, b?

    // mbarrier.pending_count
    mbarrier.pending_count.b64 d, r
";
