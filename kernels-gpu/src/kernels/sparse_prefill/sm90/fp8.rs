//! Sparse prefill over FP8 caches: sparse decode's kernel, whose query tokens are not split.

use crate::kernels::sparse_decode::sm90::{InCluster, InPrefill, Model1, V32, sparse_decode};
use crate::ptx::special;
use oximla_types::kernels::sparse_decode::SparseDecodeParams;

/// The kernel for V3.2 caches.
///
/// # Safety
/// Launched under its contract, grid `(row_tiles, partitions)`, with parameters that describe live tensors.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_prefill_v32_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_prefill_v32_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<InPrefill<V32>>(&params, address) }
}

/// The kernel for MODEL1 caches.
///
/// # Safety
/// As for [`sparse_prefill_v32_sm90`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_prefill_model1_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_prefill_model1_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<InPrefill<Model1>>(&params, address) }
}

/// The kernel for V3.2 caches where two tiles of heads share the keys, as a cluster.
///
/// # Safety
/// As for [`sparse_prefill_v32_sm90`], with an even number of tiles; all rows of all caches are aligned to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_prefill_v32_cluster_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_prefill_v32_cluster_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<InCluster<InPrefill<V32>>>(&params, address) }
}

/// The kernel for MODEL1 caches where two tiles of heads share the keys, as a cluster.
///
/// # Safety
/// As for [`sparse_prefill_v32_cluster_sm90`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_prefill_model1_cluster_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_prefill_model1_cluster_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<InCluster<InPrefill<Model1>>>(&params, address) }
}
