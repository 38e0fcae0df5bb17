//! What a running application can be told, and what it answers.
//!
//! Every listener has one channel of commands; handlers' [`Context`](super::Context)s and the
//! [`ServerHandle`](super::ServerHandle) write to it. Commands that make or end listeners go to the server. Each command is
//! answered once it has taken effect; dropping the wait takes it back nowhere.

use std::error::Error as StdError;
use std::fmt;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::snapshot::ListenerSnapshot;
use crate::types::{GroupId, Offset, TopicName, TopicPartition};
use crate::{Error, ErrorKind};

/// Why a command was not carried out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommandError {
    /// The application has no such group.
    UnknownGroup(GroupId),
    /// The group has no route for the topic.
    UnknownTopic(TopicName),
    /// The partition is not assigned to this process, or is on its way to another one.
    NotAssigned(TopicPartition),
    /// The listener of the group does not run: the application has not begun to, or the listener waits before it starts
    /// again. It may be told later.
    NotRunning(GroupId),
    /// The application, or the listener of the group, stops.
    Stopping,
    /// It was tried and refused; the error says by whom and why.
    Failed(Error),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownGroup(group) => write!(f, "the application has no group {group}"),
            Self::UnknownTopic(topic) => write!(f, "the group has no route for topic {topic}"),
            Self::NotAssigned(partition) => write!(f, "{partition} is not assigned to this process"),
            Self::NotRunning(group) => write!(f, "the listener of group {group} does not run at the moment"),
            Self::Stopping => write!(f, "the application or the listener of the group stops"),
            Self::Failed(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl StdError for CommandError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Failed(error) => StdError::source(error),
            _ => None,
        }
    }
}

impl From<CommandError> for Error {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Failed(error) => error,
            CommandError::UnknownGroup(_) | CommandError::UnknownTopic(_) => {
                Self::new(ErrorKind::Config, error.to_string())
            }
            _ => Self::new(ErrorKind::State, error.to_string()),
        }
    }
}

/// Where the answer to a command goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, CommandError>>;
/// The channel of a listener.
pub(crate) type Commands = mpsc::UnboundedSender<Command>;

/// What a listener is told.
pub(crate) enum Command {
    /// Something about one partition.
    Act { partition: TopicPartition, act: Act, reply: Reply<()> },
    /// Commit what is marked of a partition, and answer with the offset.
    Commit { partition: TopicPartition, reply: Reply<Option<Offset>> },
    /// A handler of the partition asked for a pause or a seek: handlers of single messages in its other lanes stop too.
    Interrupt(TopicPartition),
    /// Begin nothing new, or no longer so.
    Quiet { on: bool, reply: Reply<()> },
    /// The routes of the group have changed.
    Subscribe,
    /// What is going on?
    Snapshot(Reply<ListenerSnapshot>),
}

/// What can be done about a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Begin nothing before then.
    Pause(Instant),
    /// End the pauses of handlers and programs.
    Resume,
    /// Go on at this offset.
    Seek(Offset),
}

/// Sends a command and waits for its answer. Whoever stops drops the commands that are left.
pub(crate) async fn ask<C, T>(
    to: &mpsc::UnboundedSender<C>,
    command: impl FnOnce(Reply<T>) -> C,
) -> Result<T, CommandError> {
    let (reply, answer) = oneshot::channel();
    to.send(command(reply)).map_err(|_| CommandError::Stopping)?;
    answer.await.unwrap_or(Err(CommandError::Stopping))
}
