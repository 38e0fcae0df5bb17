//! What clients may do. Without a denial everything is allowed; there are no principals: what is denied is denied to all.

use std::collections::{BTreeMap, BTreeSet};

use crate::ErrorCode;

/// What rights are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Resource {
    /// A topic by name, whether it exists or not.
    Topic(String),
    /// A consumer group by id.
    Group(String),
    /// A transactional id.
    TransactionalId(String),
    /// The cluster as a whole: idempotent producers need [`Operation::Write`], and whoever writes transaction markers or sets features
    /// [`Operation::Alter`].
    Cluster,
}

/// What may be denied. As in Kafka, whoever may not describe something may do nothing with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// To know that it is there: metadata, offsets by time and epoch, coordinators, committed offsets.
    Describe,
    /// To fetch; to be a member of a group and to commit.
    Read,
    /// To produce; to begin and end transactions.
    Write,
    /// To create, also on first use.
    Create,
    /// To delete, records too.
    Delete,
    /// To add partitions; see [`Resource::Cluster`].
    Alter,
    /// To change settings.
    AlterConfigs,
}

type Denied = BTreeSet<Operation>;

/// All denials.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    topics: BTreeMap<String, Denied>,
    groups: BTreeMap<String, Denied>,
    transactional_ids: BTreeMap<String, Denied>,
    cluster: Denied,
}

impl Rights {
    pub(crate) fn deny(&mut self, resource: Resource, operation: Operation) {
        match resource {
            Resource::Topic(name) => self.topics.entry(name).or_default(),
            Resource::Group(id) => self.groups.entry(id).or_default(),
            Resource::TransactionalId(id) => self.transactional_ids.entry(id).or_default(),
            Resource::Cluster => &mut self.cluster,
        }
        .insert(operation);
    }

    /// Ends every denial for a resource.
    pub(crate) fn allow(&mut self, resource: &Resource) {
        match resource {
            Resource::Topic(name) => drop(self.topics.remove(name)),
            Resource::Group(id) => drop(self.groups.remove(id)),
            Resource::TransactionalId(id) => drop(self.transactional_ids.remove(id)),
            Resource::Cluster => self.cluster.clear(),
        }
    }

    pub(crate) fn check_topic(&self, name: &str, operation: Operation) -> Result<(), ErrorCode> {
        check(self.topics.get(name), operation, ErrorCode::TOPIC_AUTHORIZATION_FAILED)
    }

    pub(crate) fn check_group(&self, id: &str, operation: Operation) -> Result<(), ErrorCode> {
        check(self.groups.get(id), operation, ErrorCode::GROUP_AUTHORIZATION_FAILED)
    }

    pub(crate) fn check_transactional_id(&self, id: &str, operation: Operation) -> Result<(), ErrorCode> {
        let denied = self.transactional_ids.get(id);
        check(denied, operation, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    }

    pub(crate) fn check_cluster(&self, operation: Operation) -> Result<(), ErrorCode> {
        check(Some(&self.cluster), operation, ErrorCode::CLUSTER_AUTHORIZATION_FAILED)
    }
}

fn check(denied: Option<&Denied>, operation: Operation, code: ErrorCode) -> Result<(), ErrorCode> {
    match denied {
        Some(denied) if denied.contains(&operation) || denied.contains(&Operation::Describe) => Err(code),
        _ => Ok(()),
    }
}
