//! CreatePartitions, versions 0-3.

use super::{Context, Handled, Handler, refuse_with};
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::wire::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopicResult,
};

impl Handler for CreatePartitionsRequest {
    type Answer = CreatePartitionsResponse;

    fn handle(self, state: &mut State, _: &Context) -> Handled<CreatePartitionsResponse> {
        let validate_only = self.validate_only;
        let results = self
            .topics
            .into_iter()
            .map(|topic| {
                let assignments = topic.assignments.map(|assignments| {
                    assignments.iter().map(|assignment| assignment.broker_ids.to_vec()).collect()
                });
                let grown = match state.rights.check_topic(&topic.name, Operation::Alter) {
                    Ok(()) => state.create_partitions(&topic.name, topic.count, assignments, validate_only),
                    Err(code) => Err((code, "Topic authorization failed.".to_owned())),
                };
                match grown {
                    Ok(()) => CreatePartitionsTopicResult { name: topic.name, ..Default::default() },
                    Err((code, why)) => CreatePartitionsTopicResult {
                        name: topic.name,
                        error_code: code.0,
                        error_message: Some(why.into()),
                    },
                }
            })
            .collect();
        Handled::Now(CreatePartitionsResponse { results, ..Default::default() })
    }

    refuse_with!(|request, code| CreatePartitionsResponse {
        results: request
            .topics
            .into_iter()
            .map(|topic| CreatePartitionsTopicResult {
                name: topic.name,
                error_code: code,
                error_message: None,
            })
            .collect(),
        ..Default::default()
    });
}
