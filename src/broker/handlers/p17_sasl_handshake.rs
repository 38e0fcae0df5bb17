//! SaslHandshake, versions 0-1: which mechanism the client wants. Tokens come by SaslAuthenticate alone, as in Kafka 4.

use super::{Context, Handled, Handler, refuse_with};
use crate::broker::cluster::State;
use crate::wire::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

impl Handler for SaslHandshakeRequest {
    type Answer = SaslHandshakeResponse;

    fn handle(self, state: &mut State, ctx: &Context) -> Handled<SaslHandshakeResponse> {
        let (code, mechanisms) = state.sasl.name(ctx.connection, &self.mechanism);
        Handled::Now(SaslHandshakeResponse { error_code: code.0, mechanisms })
    }

    refuse_with!(|_request, code| SaslHandshakeResponse { error_code: code, mechanisms: Vec::new() });
}
