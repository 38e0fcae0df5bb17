//! Operations on a cluster: topics, groups, offsets. Results come per item: one that fails hides no other.

use crate::cluster::Cluster;

/// Handle for operations on the cluster. Cheap to clone. Every operation is retried where the error table says that it
/// helps, until the client's API timeout (60 s unless set). All are cancel-safe in that everything stays usable, but
/// whether the brokers acted on a cancelled one is unknown.
#[derive(Clone, Debug)]
pub struct Admin {
    cluster: Cluster,
}

impl Admin {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}
