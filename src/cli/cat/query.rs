//! `-Q`: which offset a partition had at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use super::arguments::Query;
use super::json::{self, Found};
use super::list::error_text;
use super::output::Output;
use super::{Failure, Job};
use crate::admin::OffsetSpec;
use crate::types::{Timestamp, TopicPartition};
use crate::{Error, ErrorCode, ErrorKind, Result};

/// librdkafka's words for a partition that the topic does not have.
const NO_PARTITION: &str = "Local: Unknown partition";

pub(super) async fn run(job: &Job) -> Result<ExitCode, Failure> {
    let mut queries: Vec<&Query> = job.options.queries.iter().collect();
    queries.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    let missing = missing(job, &queries).await?;
    let mut wanted = BTreeMap::new();
    for query in &queries {
        let partition = TopicPartition::new(query.topic.clone(), query.partition);
        if !missing.contains_key(&partition) {
            wanted.insert(partition, spec(query.timestamp));
        }
    }
    if wanted.is_empty() {
        let problems: BTreeSet<_> =
            missing.iter().map(|(partition, why)| format!("{partition}: {why}")).collect();
        let message = problems.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Failure::Failed(Error::new(ErrorKind::Broker, message)));
    }
    let results = job.admin().list_offsets(wanted).await;
    let mut found = Vec::new();
    for query in queries {
        let partition = TopicPartition::new(query.topic.clone(), query.partition);
        let mut offset = query.timestamp;
        let mut error = missing.get(&partition).cloned();
        match results.get(&partition) {
            Some(Ok(listed)) => offset = listed.offset.map_or(-1, |offset| offset.0),
            Some(Err(failed)) => match failed.code() {
                Some(code) => error = Some(error_text(code)),
                None => return Err(Failure::Failed(Error::new(failed.kind(), failed.to_string()))),
            },
            None => {}
        }
        found.push(Found { topic: &query.topic, partition: query.partition, offset, error });
    }
    let mut output = Output::new(false);
    if job.options.json {
        json::offsets(&found, output.buffer());
    } else {
        for found in &found {
            let error = found.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let line = format!("{} [{}] offset {}{error}\n", found.topic, found.partition, found.offset);
            output.buffer().extend_from_slice(line.as_bytes());
        }
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The partitions that cannot be asked about, and why.
async fn missing(job: &Job, queries: &[&Query]) -> Result<BTreeMap<TopicPartition, String>, Failure> {
    let mut missing = BTreeMap::new();
    let topics: BTreeSet<&str> = queries.iter().map(|query| query.topic.as_str()).collect();
    for topic in topics {
        let listing = job.admin().metadata_listing(Some(topic)).await?;
        let listed = listing.topics.iter().find(|listed| listed.name == topic);
        let error = listed.map_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, |listed| listed.error);
        for query in queries.iter().filter(|query| query.topic == topic) {
            let exists = listed.is_some_and(|listed| {
                listed.partitions.iter().any(|partition| partition.partition.0 == query.partition)
            });
            let problem = match (error.is_ok(), exists) {
                (false, _) => error_text(error),
                (true, false) => NO_PARTITION.to_owned(),
                (true, true) => continue,
            };
            missing.insert(TopicPartition::new(topic.to_owned(), query.partition), problem);
        }
    }
    Ok(missing)
}

/// The broker's special timestamps have names here.
fn spec(timestamp: i64) -> OffsetSpec {
    match timestamp {
        -1 => OffsetSpec::Latest,
        -2 => OffsetSpec::Earliest,
        -3 => OffsetSpec::MaxTimestamp,
        timestamp => OffsetSpec::At(Timestamp(timestamp)),
    }
}
