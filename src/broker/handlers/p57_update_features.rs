//! UpdateFeatures, versions 0-2: sets the finalized feature `transaction.version` (KIP-584); 1 and 2 tell how, and may only
//! try. From 2 on, one wrong feature refuses all.

use super::p18_api_versions::TRANSACTION_VERSION;
use super::{Context, Handled, Handler, own, refuse_with};
use crate::ErrorCode;
use crate::broker::cluster::State;
use crate::broker::rights::Operation;
use crate::broker::settings::TRANSACTION_VERSION_MAX;
use crate::wire::Str;
use crate::wire::messages::update_features::{
    FeatureUpdateKey, UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse,
};

/// Kinds of an update.
const UPGRADE: i8 = 1;
const UNSAFE_DOWNGRADE: i8 = 3;

impl Handler for UpdateFeaturesRequest {
    type Answer = UpdateFeaturesResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<UpdateFeaturesResponse> {
        if let Err(code) = state.rights.check_cluster(Operation::Alter) {
            return self.refuse(state, ctx, code);
        }
        let checked: Vec<_> =
            self.feature_updates.iter().map(|update| check(update, state, ctx.version)).collect();
        let refused = checked.iter().find_map(|checked| checked.as_ref().err().cloned());
        if let Some((error_code, why)) = refused.as_ref().filter(|_| ctx.version >= 2) {
            return Handled::Now(UpdateFeaturesResponse {
                error_code: error_code.0,
                error_message: Some(why.clone()),
                ..Default::default()
            });
        }
        let mut results = Vec::new();
        for (update, checked) in self.feature_updates.iter().zip(checked) {
            if checked.is_ok() && !self.validate_only {
                state.set_transaction_version(update.max_version_level);
            }
            let (code, why) = checked.err().unzip();
            results.push(UpdatableFeatureResult {
                feature: own(&update.feature),
                error_code: code.map_or(0, |code| code.0),
                error_message: why,
            });
        }
        // From version 2 on, the code of the whole says it all.
        let results = if ctx.version >= 2 { Vec::new() } else { results };
        Handled::Now(UpdateFeaturesResponse { results, ..Default::default() })
    }

    refuse_with!(|_request, code| UpdateFeaturesResponse { error_code: code, ..Default::default() });
}

fn check(update: &FeatureUpdateKey, state: &State, version: i16) -> Result<(), (ErrorCode, Str)> {
    let (level, current) = (update.max_version_level, state.transactions.version());
    let downgrades = match version {
        0 => update.allow_downgrade,
        _ => update.upgrade_type != UPGRADE,
    };
    let invalid = |why: String| Err((ErrorCode::INVALID_UPDATE_VERSION, Str::from(why)));
    let feature = &update.feature;
    if *feature != TRANSACTION_VERSION {
        return invalid(format!("The embedded cluster has no feature {feature}"));
    }
    if version > 0 && !(UPGRADE..=UNSAFE_DOWNGRADE).contains(&update.upgrade_type) {
        let why = format!("{} is no kind of an update", update.upgrade_type);
        return Err((ErrorCode::INVALID_REQUEST, Str::from(why)));
    }
    if !(0..=TRANSACTION_VERSION_MAX).contains(&level) {
        return invalid(format!("{feature} goes from 0 to {TRANSACTION_VERSION_MAX}, not to {level}"));
    }
    if level < current && !downgrades {
        return invalid(format!("Can not downgrade {feature} from {current} to {level} by an upgrade"));
    }
    Ok(())
}
