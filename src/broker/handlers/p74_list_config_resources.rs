//! ListConfigResources, versions 0-1: 0 lists client metrics alone.

use std::collections::BTreeSet;

use super::{Context, Handled, Handler, refuse_with};
use crate::broker::cluster::State;
use crate::broker::dynamic_configs::{BROKER, CLIENT_METRICS, GROUP, TOPIC};
use crate::broker::rights::Operation;
use crate::wire::Str;
use crate::wire::messages::list_config_resources::{
    ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse,
};

/// The levels of a broker's loggers, which nothing here has; Kafka lists the brokers all the same.
const BROKER_LOGGER: i8 = 8;

impl Handler for ListConfigResourcesRequest {
    type Answer = ListConfigResourcesResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<ListConfigResourcesResponse> {
        let wanted: BTreeSet<i8> = match ctx.version {
            0 => [CLIENT_METRICS].into(),
            _ if self.resource_types.is_empty() => {
                [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP].into()
            }
            _ => self.resource_types.iter().collect(),
        };
        let mut found: BTreeSet<(i8, Str)> = BTreeSet::new();
        for kind in wanted {
            match kind {
                TOPIC => {
                    let seen = |name: &Str| state.rights.check_topic(name, Operation::Describe).is_ok();
                    let names = state.topics().map(|(name, _)| name).filter(|name| seen(name));
                    found.extend(names.map(|name| (kind, name.clone())));
                }
                BROKER | BROKER_LOGGER => {
                    found.extend(state.alive_nodes().map(|node| (kind, Str::from(node.id.to_string()))));
                }
                _ => found.extend(state.dynamic_names(kind).map(|name| (kind, Str::from(name)))),
            }
        }
        let config_resources = found
            .into_iter()
            .map(|(resource_type, resource_name)| ConfigResource { resource_name, resource_type });
        let config_resources = config_resources.collect();
        Handled::Now(ListConfigResourcesResponse { config_resources, ..Default::default() })
    }

    refuse_with!(|_request, code| ListConfigResourcesResponse { error_code: code, ..Default::default() });
}
