//! What a server is told: which groups and topics there are.

use super::command::Reply;
use super::routing::GroupRoute;
use crate::types::{GroupId, TopicName};

/// What the server is told.
pub(crate) enum Management {
    /// Add groups, and topics to groups.
    Add(Vec<GroupRoute>, Reply<()>),
    /// Unsubscribe from a topic.
    DropTopic(GroupId, TopicName, Reply<()>),
    /// Leave a group for good.
    DropGroup(GroupId, Reply<()>),
    /// Leave a group and join it again.
    Restart(GroupId, Reply<()>),
}
