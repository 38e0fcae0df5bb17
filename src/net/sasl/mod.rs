//! SASL: how a client proves to a broker who it is, and mechanisms of your own.
//!
//! A [`Mechanism`] is handed to [`ClientBuilder::sasl`](crate::client::ClientBuilder::sasl), or named by `sasl.mechanism` among
//! the properties. Only this one is ever used, whatever else a broker offers.
//!
//! * `exchange`: the trait, and the two ends of a conversation: the mechanism's and the connection's.
//! * `login`: the conversation as frames, SaslHandshake and SaslAuthenticate.
//! * `session`: an authenticated connection, and when it proves itself again (KIP-368).
//! * `choice`: which mechanism a client uses, as a setting.
//! * `plain`, `scram`, `oauthbearer`, `msk`: the mechanisms; `sigv4` signs for the last,
//!   and `aws` finds its credentials.
//! * `token`: where tokens come from, and how long one is used; `oidc`, `http`: tokens of an identity provider.

#[cfg(feature = "sasl")]
mod aws;
mod choice;
mod exchange;
#[cfg(feature = "sasl")]
mod http;
mod login;
#[cfg(feature = "sasl")]
mod msk;
#[cfg(feature = "sasl")]
mod oauthbearer;
#[cfg(feature = "sasl")]
mod oidc;
mod plain;
#[cfg(feature = "sasl")]
mod scram;
mod session;
#[cfg(feature = "sasl")]
mod sigv4;
#[cfg(all(test, feature = "broker"))]
mod tests;
#[cfg(feature = "sasl")]
mod token;

pub(super) use exchange::{Dialogue, Said};
pub(super) use login::{Login, Output as LoginOutput};
pub(super) use session::{Output as SessionOutput, Session};

pub(crate) use choice::Chosen;

pub use crate::types::Secret;
#[cfg(feature = "sasl")]
pub use aws::AwsEnvironment;
pub use choice::Choice;
pub use exchange::{Exchange, Mechanism};
#[cfg(feature = "sasl")]
pub use msk::{AwsCredentials, AwsCredentialsProvider, AwsMskIam};
#[cfg(feature = "sasl")]
pub use oauthbearer::OAuthBearer;
#[cfg(feature = "sasl")]
pub(crate) use oauthbearer::check_extension;
#[cfg(feature = "sasl")]
pub use oidc::Oidc;
pub use plain::Plain;
#[cfg(feature = "sasl")]
pub use scram::Scram;
#[cfg(feature = "sasl")]
pub use token::{FileToken, Token, TokenProvider};
