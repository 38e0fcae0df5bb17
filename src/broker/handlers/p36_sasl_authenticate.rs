//! SaslAuthenticate, versions 0-2: a token of the mechanism that SaslHandshake named.

use super::{Context, Handled, Handler, refuse_with};
use crate::broker::cluster::State;
use crate::broker::sasl::Answer;
use crate::wire::Str;
use crate::wire::messages::{SaslAuthenticateRequest, SaslAuthenticateResponse};

impl Handler for SaslAuthenticateRequest {
    type Answer = SaslAuthenticateResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<SaslAuthenticateResponse> {
        let State { sasl, rng, .. } = state;
        Handled::Now(match sasl.authenticate(ctx.connection, &self.auth_bytes, rng, ctx.now) {
            Answer::Token(token, session_lifetime_ms) => SaslAuthenticateResponse {
                auth_bytes: token.into(),
                session_lifetime_ms,
                ..Default::default()
            },
            Answer::Refused(code, text) => SaslAuthenticateResponse {
                error_code: code.0,
                error_message: Some(Str::from(text)),
                ..Default::default()
            },
        })
    }

    refuse_with!(|_request, code| SaslAuthenticateResponse { error_code: code, ..Default::default() });
}
