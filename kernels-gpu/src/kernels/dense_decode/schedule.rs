//! The schedule of a step, computed once for the decodes of all layers: where each partition starts, how each request is split,
//! and how many keys it has.

use super::DenseRequests;
use crate::kernels::decode::segments;
use crate::ptx::{memory, special};
use oximla_types::kernels::decode::SplitRecord;
use oximla_types::kernels::dense_decode::{DenseDecodeParams, ScheduleLayout};
use oximla_types::schedule::{Place, SlotRange};

/// Writes the schedule. Each partition finds its own place, and tells of its share of the requests.
///
/// # Safety
/// Launched under its contract, grid `(1, partitions)`, with the parameters of the decodes; at `places` there is room for the
/// schedule.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_schedule(params: DenseDecodeParams) {
    let (lane, partition) = (special::thread_x(), special::cta_y());
    let decode = &params.decode;
    let layout = ScheduleLayout::new(decode.requests, decode.partitions);
    // SAFETY: a CTA is one warp, and all of it is here; the rest is as the caller promises.
    unsafe {
        special::griddepcontrol_launch_dependents();
        special::griddepcontrol_wait();
        let place = segments::find(decode, DenseRequests(&params), partition, lane);
        if lane == 0 {
            let Place { chunk, start, payload, width } = place;
            let address = decode.places + layout.places + partition as u64 * size_of::<Place>() as u64;
            memory::st_global_u32x2(address, [chunk, start]);
            memory::st_global_u32x2(address + 8, [payload, width]);
        }
        segments::for_each_request(decode, DenseRequests(&params), place, lane, |request, keys, slots| {
            let SlotRange { first, count } = slots;
            let record = decode.places + layout.splits + request as u64 * size_of::<SplitRecord>() as u64;
            memory::st_global_u32x2(record, [first, count]);
            memory::st_global_u32(decode.places + layout.lens + request as u64 * 4, keys);
        });
    }
}
