//! Data Movement and Conversion Instructions: Asynchronous copy; Tensor copy.

pub(super) const FORMS: &str = "
    // cp.async; the size that is read may be smaller, or a predicate tells that nothing is read
    cp.async.ca.SHARED.global{.L2::cache_hint}{.PREFETCH} [a], [a], 4|8|16, a?, r if .L2::cache_hint
    cp.async.cg.SHARED.global{.L2::cache_hint}{.PREFETCH} [a], [a], 16, a?, r if .L2::cache_hint

    // cp.async.commit_group, cp.async.wait_group, cp.async.wait_all
    cp.async.commit_group
    cp.async.wait_group n
    cp.async.wait_all

    // cp.async.mbarrier.arrive
    cp.async.mbarrier.arrive{.noinc}{.SHARED}.b64 [a]

    // cp.async.bulk
    cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes{.L2::cache_hint} [a], [a], a, [a], r if .L2::cache_hint
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes{.multicast::cluster}{.L2::cache_hint} [a], [a], a, [a], a if .multicast::cluster, r if .L2::cache_hint
    cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [a], [a], a, [a]
    cp.async.bulk.global.shared::cta.bulk_group{.L2::cache_hint}{.cp_mask} [a], [a], a, r if .L2::cache_hint, a if .cp_mask

    // cp.reduce.async.bulk
    cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes(.and|.or|.xor).b32 [a], [a], a, [a]
    cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes(.add.INT32|.add.u64|.inc.u32|.dec.u32|.min.INT32|.max.INT32) [a], [a], a, [a]
    cp.reduce.async.bulk.global.shared::cta.bulk_group{.L2::cache_hint}(.and|.or|.xor)(.b32|.b64) [a], [a], a, r if .L2::cache_hint
    cp.reduce.async.bulk.global.shared::cta.bulk_group{.L2::cache_hint}(.add.INT32|.add.u64|.add.f32|.add.f64|.inc.u32|.dec.u32) [a], [a], a, r if .L2::cache_hint
    cp.reduce.async.bulk.global.shared::cta.bulk_group{.L2::cache_hint}(.add.noftz|.min|.max)(.f16|.bf16) [a], [a], a, r if .L2::cache_hint
    cp.reduce.async.bulk.global.shared::cta.bulk_group{.L2::cache_hint}(.min|.max)(.INT32|.INT64) [a], [a], a, r if .L2::cache_hint

    // cp.async.bulk.prefetch
    cp.async.bulk.prefetch.L2.global{.L2::cache_hint} [a], a, r if .L2::cache_hint

    // cp.async.bulk.tensor
    cp.async.bulk.tensor.DIMENSIONS.shared::cta.global{.tile}.mbarrier::complete_tx::bytes{.L2::cache_hint} [a], [t], [a], r if .L2::cache_hint
    cp.async.bulk.tensor.DIMENSIONS.shared::cluster.global{.tile}.mbarrier::complete_tx::bytes{.multicast::cluster}{.L2::cache_hint} [a], [t], [a], a if .multicast::cluster, r if .L2::cache_hint
    cp.async.bulk.tensor.DIMENSIONS.global.shared::cta{.tile}.bulk_group{.L2::cache_hint} [t], [a], r if .L2::cache_hint

    // cp.reduce.async.bulk.tensor
    cp.reduce.async.bulk.tensor.DIMENSIONS.global.shared::cta(.add|.min|.max|.inc|.dec|.and|.or|.xor){.tile}.bulk_group{.L2::cache_hint} [t], [a], r if .L2::cache_hint

    // cp.async.bulk.prefetch.tensor
    cp.async.bulk.prefetch.tensor.DIMENSIONS.L2.global{.tile}{.L2::cache_hint} [t], r if .L2::cache_hint

    // cp.async.bulk.commit_group, cp.async.bulk.wait_group
    cp.async.bulk.commit_group
    cp.async.bulk.wait_group{.read} n

    // tensormap.replace
    tensormap.replace.tile.global_address{.global|.shared::cta}.b1024.b64 [a], a
    tensormap.replace.tile.rank{.global|.shared::cta}.b1024.b32 [a], a
    tensormap.replace.tile(.box_dim|.global_dim|.element_stride){.global|.shared::cta}.b1024.b32 [a], n, a
    tensormap.replace.tile.global_stride{.global|.shared::cta}.b1024.b64 [a], n, a
    tensormap.replace.tile(.elemtype|.interleave_layout|.swizzle_mode|.swizzle_atomicity|.fill_mode){.global|.shared::cta}.b1024.b32 [a], n

    // st.async
    st.async{.weak}{.shared::cluster}.mbarrier::complete_tx::bytes{.v2|.v4}(.b32|.b64|.INT32|.INT64|.f32|.f64) [a], v{v}, [a]

    // red.async
    red.async.relaxed.cluster{.shared::cluster}.mbarrier::complete_tx::bytes(.inc.u32|.dec.u32|.min.INT32|.max.INT32|.add.INT32|.add.u64|.and.b32|.or.b32|.xor.b32) [a], a, [a]
";
