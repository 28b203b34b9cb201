//! The schedule of a step: where each partition starts, computed once for the decodes of all layers.

use super::DenseRequests;
use crate::kernels::decode::segments;
use crate::ptx::{memory, special};
use oximla_types::kernels::dense_decode::DenseDecodeParams;
use oximla_types::schedule::Place;

/// Writes the place of each partition.
///
/// # Safety
/// Launched under its contract, grid `(1, partitions)`, with the parameters of the decodes; `places` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_schedule(params: DenseDecodeParams) {
    let (lane, partition) = (special::thread_x(), special::cta_y());
    // SAFETY: a CTA is one warp, and all of it is here; the rest is as the caller promises.
    unsafe {
        special::griddepcontrol_launch_dependents();
        special::griddepcontrol_wait();
        let Place { chunk, start, payload, width } =
            segments::find(&params.decode, DenseRequests(&params), partition, lane);
        if lane == 0 {
            let address = params.decode.places + partition as u64 * size_of::<Place>() as u64;
            memory::st_global_u32x2(address, [chunk, start]);
            memory::st_global_u32x2(address + 8, [payload, width]);
        }
    }
}
