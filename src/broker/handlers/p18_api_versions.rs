//! ApiVersions, versions 0-4: what this broker offers, and the features of the cluster (KIP-584). A newer version is answered in version 0 with
//! UNSUPPORTED_VERSION and the whole table (KIP-511).

use super::{Context, Handled, Handler, SERVED, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::settings::TRANSACTION_VERSION_MAX;
use crate::wire::Str;
use crate::wire::messages::api_versions::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};

impl Handler for ApiVersionsRequest {
    type Answer = ApiVersionsResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<ApiVersionsResponse> {
        let named = |text: &str| {
            let word = |c: char| c.is_ascii_alphanumeric();
            text.starts_with(word)
                && text.ends_with(word)
                && text.chars().all(|c| word(c) || matches!(c, '.' | '-'))
        };
        if ctx.version >= 3 && !(named(&self.client_software_name) && named(&self.client_software_version)) {
            return Handled::Now(table(ErrorCode::INVALID_REQUEST.0));
        }
        Handled::Now(with_features(table(0), state))
    }

    refuse_with!(|_request, code| table(code));
}

fn table(error_code: i16) -> ApiVersionsResponse {
    let api_keys = SERVED.iter().map(|(key, range)| ApiVersion {
        api_key: key.0,
        min_version: range.min,
        max_version: range.max,
    });
    ApiVersionsResponse { error_code, api_keys: api_keys.collect(), ..Default::default() }
}

/// The feature that decides how transactions end (KIP-890).
pub(super) const TRANSACTION_VERSION: &str = "transaction.version";

fn with_features(mut answer: ApiVersionsResponse, state: &State) -> ApiVersionsResponse {
    let name = Str::from_static(TRANSACTION_VERSION);
    let max_version = TRANSACTION_VERSION_MAX;
    answer.supported_features = vec![SupportedFeatureKey { name: name.clone(), min_version: 0, max_version }];
    answer.finalized_features_epoch = state.features_epoch;
    // Level 0 is the same as none.
    let level = state.transactions.version();
    if level > 0 {
        let feature = FinalizedFeatureKey { name, max_version_level: level, min_version_level: level };
        answer.finalized_features = vec![feature];
    }
    answer
}

/// The answer to a version that is not known; to be written in version 0.
pub(crate) fn unsupported() -> ApiVersionsResponse {
    table(ErrorCode::UNSUPPORTED_VERSION.0)
}
