//! From a part of an answer to what it brought: whether there is memory for it, which buffer it gets, and reading it.

use bytes::Bytes;

use super::decode::{DecodeConfig, Place, decode, is_heavy};
use super::fetcher::Part;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::positions::{Fetched, Records};
use crate::sync::budget::{Credit, MemoryBudget};
use crate::wire::compression::Decompressor;
use crate::wire::fetch::PartitionData;

/// A part in the buffer that its batch is to keep.
#[derive(Debug)]
pub(super) struct Reading {
    place: Place,
    data: PartitionData<()>,
    blob: Bytes,
    config: DecodeConfig,
    budget: MemoryBudget,
}

impl Reading {
    /// Gives a part a buffer of its own, for which `credit` was taken. `Err` is what it brought if there is nothing to read.
    pub(super) fn begin(
        part: Part,
        config: &ConsumerConfig,
        budget: &MemoryBudget,
        credit: &mut Credit,
    ) -> Result<Self, Fetched> {
        let Part { planned, data, asked, keeps } = part;
        if let Some(diverging) = data.diverging_epoch {
            return Err(Fetched::Diverging { epoch: diverging.epoch, end_offset: diverging.end_offset });
        }
        let len = data.records.len();
        let mut holding = planned.ledger.hold();
        // More than what was asked for is one batch that is larger: it comes all the same, and may not be taken.
        let fits = len <= asked.min(planned.max_bytes) || len <= planned.ledger.allowance();
        if !fits && (planned.ledger.held() > 0 || !holding.overdraw()) {
            return Err(Fetched::Starved);
        }
        let mut records = Bytes::new();
        let data = data.map_records(|bytes| records = bytes);
        let blob = match keeps {
            _ if len == 0 => Bytes::new(),
            Some(frame_len) => credit.split(frame_len).attach(records, frame_len),
            None => {
                let mut buffer = budget.buffer(len);
                buffer.extend_from_slice(&records);
                let capacity = buffer.capacity();
                credit.split(capacity).wrap(buffer)
            }
        };
        let config = DecodeConfig {
            check_crcs: config.check_crcs,
            isolation: config.isolation,
            batch_decompressed_max: config.batch_decompressed_max,
        };
        let place = Place {
            partition: planned.partition,
            assignment: planned.assignment,
            position: planned.offset,
            last_epoch: planned.last_epoch,
            holding,
        };
        Ok(Self { place, data, blob, config, budget: budget.clone() })
    }

    /// True if it would hold up other tasks.
    pub(super) fn is_heavy(&self) -> bool {
        is_heavy(&self.blob)
    }

    pub(super) fn finish(self, credit: &mut Credit, decompressor: &mut Decompressor) -> Fetched {
        let Self { place, data, blob, config, budget } = self;
        let (high_watermark, last_stable_offset) = (data.high_watermark, data.last_stable_offset);
        let decoded = decode(place, data, blob, &config, &budget, credit, decompressor);
        if decoded.starved {
            return Fetched::Starved;
        }
        Fetched::Records(Records {
            batch: decoded.batch,
            next_offset: decoded.next_offset,
            last_epoch: decoded.last_epoch,
            high_watermark,
            last_stable_offset,
            fault: decoded.fault,
            cut: decoded.cut,
        })
    }
}
