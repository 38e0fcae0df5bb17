//! Events that are kept, sent elsewhere or written as JSON.

use std::time::Duration;

use serde::Serialize;

use super::{Event, FailedRun};
use crate::app::snapshot::as_text;
use crate::error::Chain;
use crate::types::{GroupId, Offset, TopicPartition, Uuid};

/// What an [`Event`] tells, without borrowing from where it happened. One form for all events, so that whoever collects them
/// needs to know none: what an event does not have is absent, in JSON too.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use carafe::app::OwnedEvent;
/// use carafe::prelude::*;
///
/// let seen = Arc::new(Mutex::new(Vec::<OwnedEvent>::new()));
/// let keep = seen.clone();
/// let app = App::new("shop").listener(move |event: &Event<'_>| {
///     if event.name() == "error.occurred" {
///         keep.lock().expect("no panic").push(event.to_owned());
///     }
/// });
/// # drop(app);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OwnedEvent {
    /// [`Event::name`].
    pub name: &'static str,
    /// The group that it is about.
    #[serde(serialize_with = "as_text::maybe", skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// The partitions that it is about.
    #[serde(serialize_with = "as_text::list", skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<TopicPartition>,
    /// A topic other than that of the partitions: the dead letter topic, or the one that was recreated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The virtual partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<u32>,
    /// The run, or how often something failed, 1 for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How many records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<usize>,
    /// The record, or the first one.
    #[serde(serialize_with = "as_text::offset", skip_serializing_if = "Option::is_none")]
    pub offset: Option<Offset>,
    /// The last record, or where reading goes on.
    #[serde(serialize_with = "as_text::offset", skip_serializing_if = "Option::is_none")]
    pub to: Option<Offset>,
    /// How long it took, takes or is going to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Duration>,
    /// Whether it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    /// Where an error happened, which policy acted, or which condition it is, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// What went wrong, with all causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Identifies the error of a handler; see [`FailedRun`](super::FailedRun).
    #[serde(serialize_with = "as_text::maybe", skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<Uuid>,
}

impl OwnedEvent {
    fn of_group(self, group: &GroupId) -> Self {
        Self { group: Some(group.clone()), ..self }
    }

    fn of(self, partition: &TopicPartition) -> Self {
        Self { partitions: vec![partition.clone()], ..self }
    }

    fn because(self, error: &crate::Error) -> Self {
        Self { error: Some(Chain(error).to_string()), ..self }
    }
}

impl Event<'_> {
    /// What it tells, to be kept. Allocates; an event that nobody keeps does not.
    pub fn to_owned(&self) -> OwnedEvent {
        let event = OwnedEvent { name: self.name(), ..OwnedEvent::default() };
        match *self {
            Self::Running | Self::Stopping | Self::Stopped => event,
            Self::Quiet { group, on: _ } => event.of_group(group),
            Self::ListenerRestarting { group, failures, delay, error } => {
                let event = OwnedEvent { attempt: Some(failures), time: Some(delay), ..event };
                event.of_group(group).because(error)
            }
            Self::Assigned { group, partitions }
            | Self::Revoked { group, partitions }
            | Self::Lost { group, partitions } => {
                OwnedEvent { partitions: partitions.to_vec(), ..event }.of_group(group)
            }
            Self::TopicRecreated { group, topic, old, new } => {
                let context = Some(format!("{old} is {new} now"));
                OwnedEvent { topic: Some(topic.to_string()), context, ..event }.of_group(group)
            }
            Self::Condition { group, event: news } => {
                let condition = &news.condition;
                let context = format!("{}: {:?} {:?}", condition.subject, condition.kind, news.stage);
                let event = OwnedEvent { context: Some(context), time: Some(condition.lasted), ..event };
                event.of_group(group).because(&condition.error)
            }
            Self::PositionReset { partition, from, to, error } => {
                OwnedEvent { offset: Some(from), to: Some(to), ..event }.of(partition).because(error)
            }
            Self::Consume { partition, lane, records, attempt } => {
                let event = OwnedEvent { lane: Some(lane), records: Some(records), ..event };
                OwnedEvent { attempt: Some(attempt), ..event }.of(partition)
            }
            Self::Called { kind: _, partition, lane, success, time } => {
                let event = OwnedEvent { lane: Some(lane), success: Some(success), ..event };
                OwnedEvent { time: Some(time), ..event }.of(partition)
            }
            Self::Consumed { partition, lane, records, success, time } => {
                let event = OwnedEvent { lane: Some(lane), records: Some(records), ..event };
                OwnedEvent { success: Some(success), time: Some(time), ..event }.of(partition)
            }
            Self::Stuck { partition, lane, time } => {
                OwnedEvent { lane: Some(lane), time: Some(time), ..event }.of(partition)
            }
            Self::Starved { group, late } => OwnedEvent { time: Some(late), ..event }.of_group(group),
            Self::Skipped { partition, policy, first, last, records } => {
                let event = OwnedEvent { offset: Some(first), to: Some(last), ..event };
                let context = Some(policy.to_owned());
                OwnedEvent { records: Some(records), context, ..event }.of(partition)
            }
            Self::Retrying { partition, offset, attempt, delay } => {
                let event = OwnedEvent { offset: Some(offset), time: Some(delay), ..event };
                OwnedEvent { attempt: Some(attempt), ..event }.of(partition)
            }
            Self::DeadLettered { partition, offset, topic, attempts } => {
                let event = OwnedEvent { offset: Some(offset), topic: Some(topic.to_owned()), ..event };
                OwnedEvent { attempt: Some(attempts), ..event }.of(partition)
            }
            Self::Error { context, partition, run, error } => {
                let mut event = OwnedEvent { context: Some(context.to_owned()), ..event }.because(error);
                if let Some(FailedRun { lane, offset, attempt, trace_id }) = run {
                    (event.lane, event.attempt) = (Some(lane), Some(attempt));
                    (event.offset, event.trace_id) = (offset, Some(trace_id));
                }
                match partition {
                    Some(partition) => event.of(partition),
                    None => event,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ErrorKind};

    #[test]
    fn an_owned_event_says_what_the_event_said_and_nothing_else() {
        let partition = TopicPartition::new("t", 1);
        let error = Error::new(ErrorKind::Handler, "on purpose");
        let (context, of) = ("consumer.consume.error", Some(&partition));
        let run = Some(FailedRun { lane: 0, offset: Some(Offset(7)), attempt: 2, trace_id: Uuid::ZERO });
        let event = Event::Error { context, partition: of, run, error: &error };
        let json = serde_json::to_value(event.to_owned()).unwrap();
        let expected = serde_json::json!({
            "name": "error.occurred",
            "partitions": ["t[1]"],
            "context": "consumer.consume.error",
            "error": "on purpose",
            "lane": 0,
            "offset": 7,
            "attempt": 2,
            "trace_id": "AAAAAAAAAAAAAAAAAAAAAA",
        });
        assert_eq!(json, expected);
        let time = Duration::from_millis(1500);
        let event = Event::Consumed { partition: &partition, lane: 2, records: 3, success: true, time };
        let json = serde_json::to_value(event.to_owned()).unwrap();
        assert_eq!(json["time"], serde_json::json!({ "secs": 1, "nanos": 500_000_000 }));
        assert_eq!(
            (&json["records"], &json["success"], &json["group"]),
            (&3.into(), &true.into(), &().into())
        );
    }
}
