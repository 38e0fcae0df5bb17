//! AlterUserScramCredentials, version 0: the client has salted and stretched the password; the broker never sees it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Context, Handled, Handler, own, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::broker::sasl::{ITERATIONS_MAX, ITERATIONS_MIN, SaslMechanism};
use crate::wire::Str;
use crate::wire::messages::alter_user_scram_credentials::{
    AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse, AlterUserScramCredentialsResult,
    ScramCredentialUpsertion,
};

impl Handler for AlterUserScramCredentialsRequest {
    type Answer = AlterUserScramCredentialsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<AlterUserScramCredentialsResponse> {
        if let Err(code) = state.rights.check_cluster(Operation::Alter) {
            return self.refuse(state, ctx, code);
        }
        if ctx.node != state.controller() {
            return self.refuse(state, ctx, ErrorCode::NOT_CONTROLLER);
        }
        // A user whose change is wrong is not changed at all.
        let mut verdicts: BTreeMap<Str, ErrorCode> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for deletion in &self.deletions {
            let verdict = match SaslMechanism::scram(deletion.mechanism) {
                None => ErrorCode::UNSUPPORTED_SASL_MECHANISM,
                Some(mechanism) if state.sasl.users.scram(&deletion.name, mechanism).is_none() => {
                    ErrorCode::RESOURCE_NOT_FOUND
                }
                Some(_) => ErrorCode::NONE,
            };
            judge(&mut verdicts, &mut seen, &deletion.name, deletion.mechanism, verdict);
        }
        for upsertion in &self.upsertions {
            judge(&mut verdicts, &mut seen, &upsertion.name, upsertion.mechanism, verdict(upsertion));
        }
        let good = |name: &Str| verdicts.get(name) == Some(&ErrorCode::NONE);
        for deletion in self.deletions.iter().filter(|deletion| good(&deletion.name)) {
            if let Some(mechanism) = SaslMechanism::scram(deletion.mechanism) {
                state.sasl.users.remove_scram(&deletion.name, mechanism);
            }
        }
        for upsertion in self.upsertions.iter().filter(|upsertion| good(&upsertion.name)) {
            if let Some(mechanism) = SaslMechanism::scram(upsertion.mechanism) {
                let ScramCredentialUpsertion { name, salt, salted_password, iterations, .. } = upsertion;
                state.sasl.users.set_scram(name, mechanism, salt, salted_password, *iterations);
            }
        }
        let result = |(user, code): (Str, ErrorCode)| AlterUserScramCredentialsResult {
            user,
            error_code: code.0,
            error_message: (code != ErrorCode::NONE).then(|| Str::from(code.to_string())),
        };
        let results = verdicts.into_iter().map(result).collect();
        Handled::Now(AlterUserScramCredentialsResponse { results, ..Default::default() })
    }

    refuse_with!(|request, code| {
        let deleted = request.deletions.into_iter().map(|deletion| deletion.name);
        let names: BTreeSet<Str> =
            deleted.chain(request.upsertions.into_iter().map(|upsertion| upsertion.name)).collect();
        let result = |user| AlterUserScramCredentialsResult { user, error_code: code, error_message: None };
        AlterUserScramCredentialsResponse {
            results: names.into_iter().map(result).collect(),
            ..Default::default()
        }
    });
}

fn judge(
    verdicts: &mut BTreeMap<Str, ErrorCode>,
    seen: &mut BTreeSet<(Str, i8)>,
    name: &Str,
    mechanism: i8,
    verdict: ErrorCode,
) {
    let twice = !seen.insert((own(name), mechanism));
    let verdict = match verdict {
        _ if name.is_empty() => ErrorCode::UNACCEPTABLE_CREDENTIAL,
        _ if twice => ErrorCode::DUPLICATE_RESOURCE,
        verdict => verdict,
    };
    let known = verdicts.entry(own(name)).or_insert(ErrorCode::NONE);
    if *known == ErrorCode::NONE {
        *known = verdict;
    }
}

fn verdict(upsertion: &ScramCredentialUpsertion) -> ErrorCode {
    if SaslMechanism::scram(upsertion.mechanism).is_none() {
        ErrorCode::UNSUPPORTED_SASL_MECHANISM
    } else if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&upsertion.iterations)
        || upsertion.salt.is_empty()
        || upsertion.salted_password.is_empty()
    {
        ErrorCode::UNACCEPTABLE_CREDENTIAL
    } else {
        ErrorCode::NONE
    }
}
