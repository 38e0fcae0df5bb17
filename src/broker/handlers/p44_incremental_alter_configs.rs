//! IncrementalAlterConfigs, versions 0-1, and AlterConfigs (33), versions 0-2, which replaces all of a resource: any node
//! changes topics, groups and what all brokers have, a broker its own.

use std::collections::BTreeMap;

use super::{Context, Handled, Handler, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::dynamic_configs::{self, BROKER, CLIENT_METRICS, Change, GROUP, TOPIC};
use crate::broker::rights::Operation;
use crate::wire::Str;
use crate::wire::messages::alter_configs::{
    AlterConfigsRequest, AlterConfigsResourceResponse as WholeAnswer, AlterConfigsResponse,
};
use crate::wire::messages::incremental_alter_configs::{
    AlterConfigsResourceResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

impl Handler for IncrementalAlterConfigsRequest {
    type Answer = IncrementalAlterConfigsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<IncrementalAlterConfigsResponse> {
        let validate_only = self.validate_only;
        let each = self.resources.into_iter().map(|resource| {
            let changes: Vec<_> = (resource.configs.iter())
                .map(|config| Change {
                    name: config.name.to_string(),
                    operation: config.config_operation,
                    value: config.value.as_ref().map(ToString::to_string),
                })
                .collect();
            let (kind, name) = (resource.resource_type, resource.resource_name);
            let (error_code, error_message) =
                alter(state, ctx, (kind, &name), &changes, false, validate_only);
            AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type: kind,
                resource_name: name,
            }
        });
        let responses = each.collect();
        Handled::Now(IncrementalAlterConfigsResponse { responses, ..Default::default() })
    }

    refuse_with!(|request, code| IncrementalAlterConfigsResponse {
        responses: request
            .resources
            .into_iter()
            .map(|resource| AlterConfigsResourceResponse {
                error_code: code,
                error_message: None,
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
            })
            .collect(),
        ..Default::default()
    });
}

impl Handler for AlterConfigsRequest {
    type Answer = AlterConfigsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<AlterConfigsResponse> {
        let validate_only = self.validate_only;
        let each = self.resources.into_iter().map(|resource| {
            let changes: Vec<_> = (resource.configs.iter())
                .map(|config| Change {
                    name: config.name.to_string(),
                    operation: 0,
                    value: config.value.as_ref().map(ToString::to_string),
                })
                .collect();
            let (kind, name) = (resource.resource_type, resource.resource_name);
            let (error_code, error_message) = alter(state, ctx, (kind, &name), &changes, true, validate_only);
            WholeAnswer { error_code, error_message, resource_type: kind, resource_name: name }
        });
        let responses = each.collect();
        Handled::Now(AlterConfigsResponse { responses, ..Default::default() })
    }

    refuse_with!(|request, code| AlterConfigsResponse {
        responses: request
            .resources
            .into_iter()
            .map(|resource| WholeAnswer {
                error_code: code,
                error_message: None,
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
            })
            .collect(),
        ..Default::default()
    });
}

/// [`change`], and what an answer says of it.
fn alter(
    state: &mut State,
    ctx: &Context,
    resource: (i8, &Str),
    changes: &[Change],
    whole: bool,
    validate_only: bool,
) -> (i16, Option<Str>) {
    match change(state, ctx, resource, changes, whole, validate_only) {
        Ok(()) => (ErrorCode::NONE.0, None),
        Err((code, why)) => (code.0, Some(why.into())),
    }
}

/// With `whole`, what `changes` do not name goes.
fn change(
    state: &mut State,
    ctx: &Context,
    (kind, name): (i8, &Str),
    changes: &[Change],
    whole: bool,
    validate_only: bool,
) -> Result<(), (ErrorCode, String)> {
    let allowed = match kind {
        TOPIC => state.rights.check_topic(name, Operation::AlterConfigs),
        GROUP => state.rights.check_group(name, Operation::AlterConfigs),
        _ => state.rights.check_cluster(Operation::AlterConfigs),
    };
    allowed.map_err(|code| (code, "Authorization failed.".to_owned()))?;
    match kind {
        TOPIC if state.topic(name).is_none() => {
            let why = format!("The topic '{name}' does not exist.");
            return Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, why));
        }
        BROKER if !name.is_empty() && name.parse() != Ok(ctx.node) => {
            let why = format!("Unexpected broker id, expected {}, but received {name}", ctx.node);
            return Err((ErrorCode::INVALID_REQUEST, why));
        }
        GROUP | CLIENT_METRICS if name.is_empty() => {
            return Err((ErrorCode::INVALID_REQUEST, "Default resource names are not allowed.".to_owned()));
        }
        TOPIC | BROKER | GROUP | CLIENT_METRICS => {}
        other => return Err((ErrorCode::INVALID_REQUEST, format!("Unexpected resource type {other}."))),
    }
    let none = BTreeMap::new();
    let own = match kind {
        _ if whole => &none,
        TOPIC => state.topic(name).map_or(&none, |topic| &topic.configs),
        _ => state.dynamic_configs(kind, name).unwrap_or(&none),
    };
    let values =
        dynamic_configs::changed(kind, own, changes).map_err(|why| (ErrorCode::INVALID_CONFIG, why))?;
    if !validate_only {
        state.set_configs(kind, name, values);
    }
    Ok(())
}
