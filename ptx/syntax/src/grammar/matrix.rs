//! Warp Level Matrix Multiply-Accumulate Instructions; Asynchronous Warpgroup Level Matrix Instructions.

pub(super) const FORMS: &str = "
    // mma
    mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 d{2}, v{2}, v{1}, v{2}
    mma.sync.aligned.m16n8k8.row.col.f32(.f16.f16|.bf16.bf16).f32 d{4}, v{2}, v{1}, v{4}
    mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 d{2}, v{4}, v{2}, v{2}
    mma.sync.aligned.m16n8k16.row.col.f32(.f16.f16|.bf16.bf16).f32 d{4}, v{4}, v{2}, v{4}

    // ldmatrix, stmatrix, movmatrix
    ldmatrix.sync.aligned.m8n8(.x1|.x2|.x4){.trans}{.SHARED}.b16 d{x}, [a]
    stmatrix.sync.aligned.m8n8(.x1|.x2|.x4){.trans}{.SHARED}.b16 [a], v{x}
    movmatrix.sync.aligned.m8n8.trans.b16 d, r

    // wgmma.mma_async: D; A as a descriptor or in registers; B as a descriptor; whether D is added, as a predicate or a
    // constant; signs of A and B; where the elements have 16 bits, whether A and B in shared memory are transposed
    wgmma.mma_async.sync.aligned.m64nNk16.f16.f16.f16 d{N/4}, r, r, a, n, n, n, n
    wgmma.mma_async.sync.aligned.m64nNk16.f16.f16.f16 d{N/4}, v{4}, r, a, n, n, n
    wgmma.mma_async.sync.aligned.m64nNk16.f32(.f16.f16|.bf16.bf16) d{N/2}, r, r, a, n, n, n, n
    wgmma.mma_async.sync.aligned.m64nNk16.f32(.f16.f16|.bf16.bf16) d{N/2}, v{4}, r, a, n, n, n
    wgmma.mma_async.sync.aligned.m64nNk8.f32.tf32.tf32 d{N/2}, r, r, a, n, n
    wgmma.mma_async.sync.aligned.m64nNk8.f32.tf32.tf32 d{N/2}, v{4}, r, a, n, n
    wgmma.mma_async.sync.aligned.m64nNk32.f16(.e4m3|.e5m2)(.e4m3|.e5m2) d{N/4}, r, r, a, n, n
    wgmma.mma_async.sync.aligned.m64nNk32.f16(.e4m3|.e5m2)(.e4m3|.e5m2) d{N/4}, v{4}, r, a, n, n
    wgmma.mma_async.sync.aligned.m64nNk32.f32(.e4m3|.e5m2)(.e4m3|.e5m2) d{N/2}, r, r, a, n, n
    wgmma.mma_async.sync.aligned.m64nNk32.f32(.e4m3|.e5m2)(.e4m3|.e5m2) d{N/2}, v{4}, r, a, n, n
    wgmma.mma_async.sync.aligned.m64nIk32{.satfinite}.s32(.s8|.u8)(.s8|.u8) d{N/2}, r, r, a
    wgmma.mma_async.sync.aligned.m64nIk32{.satfinite}.s32(.s8|.u8)(.s8|.u8) d{N/2}, v{4}, r, a

    // wgmma.fence, wgmma.commit_group, wgmma.wait_group
    wgmma.fence.sync.aligned
    wgmma.commit_group.sync.aligned
    wgmma.wait_group.sync.aligned n
";
