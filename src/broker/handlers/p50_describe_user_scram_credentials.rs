//! DescribeUserScramCredentials, version 0: who has credentials of SCRAM, and how many iterations they have.

use std::collections::BTreeMap;

use super::{Context, Handled, Handler, own, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::broker::sasl::SaslMechanism;
use crate::wire::Str;
use crate::wire::messages::describe_user_scram_credentials::{
    CredentialInfo, DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
    DescribeUserScramCredentialsResult,
};

impl Handler for DescribeUserScramCredentialsRequest {
    type Answer = DescribeUserScramCredentialsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<DescribeUserScramCredentialsResponse> {
        if let Err(code) = state.rights.check_cluster(Operation::Describe) {
            return self.refuse(state, ctx, code);
        }
        let all = state.sasl.users.all_scram();
        // An empty list means everyone, as no list does.
        let asked = self.users.filter(|users| !users.is_empty());
        let result = |user: Str, times: usize| {
            let known = all.get(&*user);
            let code = match known {
                _ if times > 1 => ErrorCode::DUPLICATE_RESOURCE,
                Some(_) => ErrorCode::NONE,
                None => ErrorCode::RESOURCE_NOT_FOUND,
            };
            let infos = known.filter(|_| times == 1).into_iter().flatten();
            DescribeUserScramCredentialsResult {
                error_code: code.0,
                error_message: (code != ErrorCode::NONE).then(|| Str::from(code.to_string())),
                credential_infos: infos
                    .map(|(mechanism, iterations)| CredentialInfo {
                        mechanism: if *mechanism == SaslMechanism::ScramSha256 { 1 } else { 2 },
                        iterations: *iterations,
                    })
                    .collect(),
                user,
            }
        };
        let results = match asked {
            None => all.keys().map(|user| result(Str::from(*user), 1)).collect(),
            Some(users) => {
                let mut times = BTreeMap::<Str, usize>::new();
                users.iter().for_each(|user| *times.entry(own(&user.name)).or_default() += 1);
                times.into_iter().map(|(user, times)| result(user, times)).collect()
            }
        };
        Handled::Now(DescribeUserScramCredentialsResponse { results, ..Default::default() })
    }

    refuse_with!(|_request, code| DescribeUserScramCredentialsResponse {
        error_code: code,
        ..Default::default()
    });
}
