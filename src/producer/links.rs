//! Machine: what becomes of the connections to brokers and what is said over them: when one is opened again, which versions
//! of Produce are spoken, until when an answer is waited for, and what an answer, or none, says of the connection.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::config::Acks;
use crate::backoff::Backoff;
use crate::cluster::{Answer, RequestError};
use crate::types::NodeId;
use crate::wire::compression::Compression;
use crate::wire::produce::{self, PartitionBatch, RequestHead, Response};
use crate::wire::{Uuid, VersionRange};
use crate::{Error, deadline};

/// Batches by zstd need this version of Produce (KIP-110).
const ZSTD_MIN: i16 = 7;
/// Last version of Produce that names topics; from the next one on it is their ids (KIP-516).
const BY_NAME_MAX: i16 = 12;

/// Settings of the machine.
#[derive(Clone, Debug)]
pub(super) struct LinksConfig {
    pub(super) acks: Acks,
    pub(super) compression: Compression,
    /// Time that a broker gets for an answer.
    pub(super) request_timeout: Duration,
    pub(super) backoff: Backoff,
}

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Open a connection to `node` after `pause`, until `deadline`.
    Open { node: NodeId, pause: Option<Duration>, deadline: Instant },
    /// Whoever cannot be reached may not lead any more: ask who does.
    Refresh,
}

/// How a request is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) versions: VersionRange,
    pub(super) head: RequestHead,
    pub(super) deadline: Instant,
    /// The broker answers.
    pub(super) answered: bool,
}

/// What came back for a request.
#[derive(Debug)]
pub(super) enum Heard {
    /// It was written, and no answer is wanted.
    Written,
    /// The broker's answer; it wants nothing more for so long.
    Answer(Response, Duration),
    /// Nothing came.
    Failed(RequestError),
    /// What came is no answer, and nothing can be read behind it: the connection is of no use any more.
    Broken(Error),
}

/// The machine.
#[derive(Debug)]
pub(super) struct Links {
    config: LinksConfig,
    /// Attempts to connect that failed in a row.
    failures: BTreeMap<NodeId, u32>,
    outputs: VecDeque<Output>,
}

impl Links {
    pub(super) fn new(config: LinksConfig) -> Self {
        Self { config, failures: BTreeMap::new(), outputs: VecDeque::new() }
    }

    /// A connection to `node` is wanted, and there is none. `random` spreads back-off.
    pub(super) fn handle_wanted(&mut self, now: Instant, node: NodeId, random: u64) {
        let failures = self.failures.get(&node);
        let pause = failures.map(|failures| self.config.backoff.delay(*failures, random));
        self.outputs.push_back(Output::Open { node, pause, deadline: self.answer_by(now) });
    }

    /// There is a connection to `node`.
    pub(super) fn handle_opened(&mut self, node: NodeId) {
        self.failures.remove(&node);
    }

    /// There will be none.
    pub(super) fn handle_failed(&mut self, node: NodeId) {
        let failures = self.failures.entry(node).or_default();
        *failures = failures.saturating_add(1);
        self.outputs.push_back(Output::Refresh);
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Until when whoever is asked now may answer.
    pub(super) fn answer_by(&self, now: Instant) -> Instant {
        deadline::after(now, self.config.request_timeout)
    }

    /// How a request of `batches` is spoken.
    pub(super) fn manner(&self, now: Instant, batches: &[PartitionBatch]) -> Manner {
        let by_name = batches.iter().any(|batch| batch.topic_id == Uuid::ZERO);
        let min = if self.config.compression == Compression::Zstd { ZSTD_MIN } else { produce::VERSIONS.min };
        let max = if by_name { BY_NAME_MAX } else { produce::VERSIONS.max };
        let timeout_ms = i32::try_from(self.config.request_timeout.as_millis()).unwrap_or(i32::MAX);
        Manner {
            versions: VersionRange::new(min, max),
            head: RequestHead { transactional_id: None, acks: self.config.acks.code(), timeout_ms },
            deadline: self.answer_by(now),
            answered: self.config.acks != Acks::None,
        }
    }

    /// True if a request in `version` names topics, not their ids.
    pub(super) fn names_topics(&self, version: i16) -> bool {
        version <= BY_NAME_MAX
    }

    /// What `answer` is.
    pub(super) fn hear(&self, answer: Result<Answer, RequestError>) -> Heard {
        let answer = match answer {
            Ok(_) if self.config.acks == Acks::None => return Heard::Written,
            Ok(answer) => answer,
            Err(failure) => return Heard::Failed(failure),
        };
        let decoded =
            answer.reader().and_then(|mut reader| Ok(Response::decode(&mut reader, answer.version)?));
        match decoded {
            Ok(response) => {
                let throttle = u64::try_from(response.throttle_time_ms).unwrap_or(0);
                Heard::Answer(response, Duration::from_millis(throttle))
            }
            Err(error) => Heard::Broken(error.with_retriable(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ErrorKind;

    const NODE: NodeId = NodeId(1);

    fn links(acks: Acks, compression: Compression) -> Links {
        let ms = Duration::from_millis;
        let backoff = Backoff { first: ms(100), max: ms(1000), jitter: 0.0 };
        Links::new(LinksConfig { acks, compression, request_timeout: ms(30_000), backoff })
    }

    #[test]
    fn whoever_failed_is_tried_again_later_and_later() {
        let mut links = links(Acks::All, Compression::None);
        let now = Instant::now();
        for millis in [None, Some(100), Some(200)] {
            links.handle_wanted(now, NODE, 0);
            let deadline = now + Duration::from_secs(30);
            let open = Output::Open { node: NODE, pause: millis.map(Duration::from_millis), deadline };
            assert_eq!(links.poll_output(), Some(open));
            links.handle_failed(NODE);
            assert_eq!(links.poll_output(), Some(Output::Refresh), "another node may lead by now");
        }
        links.handle_opened(NODE);
        links.handle_wanted(now, NODE, 0);
        assert!(matches!(links.poll_output(), Some(Output::Open { pause: None, .. })));
        assert_eq!(links.poll_output(), None);
    }

    #[test]
    fn versions_are_those_that_can_say_it() {
        let batch = |topic_id| PartitionBatch {
            topic: "t".into(),
            topic_id,
            partition: 0,
            header: [0; crate::wire::records::HEADER_LEN],
            body: Bytes::new(),
        };
        let (named, known) = (batch(Uuid::ZERO), batch(Uuid([1; 16])));
        let now = Instant::now();
        let range = |compression, batches: &[PartitionBatch]| {
            let versions = links(Acks::All, compression).manner(now, batches).versions;
            (versions.min, versions.max)
        };
        let VersionRange { min, max } = produce::VERSIONS;
        assert_eq!(range(Compression::None, std::slice::from_ref(&known)), (min, max));
        assert_eq!(range(Compression::None, &[known.clone(), named]), (min, 12));
        assert_eq!(range(Compression::Zstd, &[known]), (7, max));
        assert!(links(Acks::All, Compression::None).manner(now, &[]).answered);
        assert!(!links(Acks::None, Compression::None).manner(now, &[]).answered);
    }

    #[test]
    fn what_is_no_answer_ends_the_connection() {
        let answer = |bytes: &'static [u8]| {
            let frame = Bytes::from_static(bytes);
            Ok(Answer { key: crate::wire::ApiKey::PRODUCE, version: 9, frame })
        };
        let all = links(Acks::All, Compression::None);
        assert!(matches!(all.hear(answer(b"?")), Heard::Broken(error) if error.is_retriable()));
        let lost = || RequestError { error: Error::new(ErrorKind::Network, "it broke"), unsent: true };
        assert!(matches!(all.hear(Err(lost())), Heard::Failed(RequestError { unsent: true, .. })));
        let none = links(Acks::None, Compression::None);
        assert!(matches!(none.hear(answer(b"")), Heard::Written));
        assert!(matches!(none.hear(Err(lost())), Heard::Failed(_)));
    }
}
