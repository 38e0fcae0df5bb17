use bytes::Bytes;

use crate::decoder::{Messages, Refusal};
use crate::input::Input;
use crate::limits::within;

/// A response of any API in any version.
///
/// Input: API key (1 byte), version (1 byte), body.
pub fn responses(decoder: &mut impl Messages, input: &[u8]) {
    let (key, version, body) = message(input);
    again(&body, |body| decoder.response(key, version, body));
}

/// A request of any API in any version.
///
/// Input: API key (1 byte), version (1 byte), body.
pub fn requests(decoder: &mut impl Messages, input: &[u8]) {
    let (key, version, body) = message(input);
    again(&body, |body| decoder.request(key, version, body));
}

/// The messages around authentication: what a server may send that has proven nothing yet, and a client to a server.
///
/// Input: which message (1 byte), version (1 byte), body.
pub fn sasl(decoder: &mut impl Messages, input: &[u8]) {
    const SASL_HANDSHAKE: i16 = 17;
    const API_VERSIONS: i16 = 18;
    const SASL_AUTHENTICATE: i16 = 36;
    let (which, version, body) = message(input);
    let key = [SASL_HANDSHAKE, SASL_AUTHENTICATE, API_VERSIONS][which as usize / 2 % 3];
    if which % 2 == 0 {
        again(&body, |body| decoder.response(key, version, body));
    } else {
        again(&body, |body| decoder.request(key, version, body));
    }
}

fn message(input: &[u8]) -> (i16, i16, Bytes) {
    let mut input = Input::new(input);
    (input.u8().into(), input.u8().into(), Bytes::copy_from_slice(input.rest()))
}

/// What is read can be written, and what was written is read and written as the same bytes.
fn again(body: &Bytes, mut decode: impl FnMut(&Bytes) -> Result<Vec<u8>, Refusal>) {
    let Ok(written) = within(body.len(), || decode(body)) else { return };
    assert!(written.len() <= body.len(), "{} bytes were read, {} are written", body.len(), written.len());
    let written = Bytes::from(written);
    assert_eq!(decode(&written).as_deref(), Ok(&written[..]));
}
