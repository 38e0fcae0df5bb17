//! Who may ask what before and after a login, and users that come over the wire.

use super::support::{Bench, Client};
use crate::ErrorCode;
use crate::broker::{Cluster, Logins, SaslMechanism};
use crate::wire::messages::alter_user_scram_credentials::{
    AlterUserScramCredentialsRequest, ScramCredentialDeletion, ScramCredentialUpsertion,
};
use crate::wire::messages::describe_user_scram_credentials::{DescribeUserScramCredentialsRequest, UserName};
use crate::wire::messages::{
    ApiVersionsRequest, MetadataRequest, SaslAuthenticateRequest, SaslAuthenticateResponse,
    SaslHandshakeRequest,
};

async fn bench() -> Bench {
    Bench::start(Cluster::builder().sasl([SaslMechanism::Plain]).user("alice", "secret")).await
}

impl Client {
    async fn name(&mut self, mechanism: &str) -> ErrorCode {
        let request = SaslHandshakeRequest { mechanism: mechanism.into() };
        ErrorCode(self.ask(&request, 1).await.error_code)
    }

    async fn say(&mut self, token: &'static str) -> SaslAuthenticateResponse {
        self.ask(&SaslAuthenticateRequest { auth_bytes: token.into() }, 2).await
    }

    async fn log_in(&mut self) {
        assert_eq!(self.name("PLAIN").await, ErrorCode::NONE);
        assert_eq!(self.say("\0alice\0secret").await.error_code, 0);
    }

    async fn is_let_in(&mut self) -> bool {
        self.try_ask(&MetadataRequest::default(), 12).await.is_ok()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_but_versions_is_told_before_a_login() {
    let bench = bench().await;
    let mut client = bench.client(0).await;
    client.ask(&ApiVersionsRequest::default(), 0).await;
    assert!(!client.is_let_in().await);
    let mut client = bench.client(0).await;
    client.log_in().await;
    assert!(client.is_let_in().await && client.is_let_in().await);
    // While it logs in again it may ask nothing else.
    assert_eq!(client.name("PLAIN").await, ErrorCode::NONE);
    assert!(!client.is_let_in().await);
    let logins = bench.cluster.control().logins();
    assert_eq!(logins, Logins { accepted: 1, closed: 2, ..Logins::default() });
}

#[tokio::test(start_paused = true)]
async fn whoever_is_refused_is_told_why_and_loses_the_connection() {
    let bench = bench().await;
    for (mechanism, token, code, expected) in [
        ("SCRAM-SHA-256", "", ErrorCode::UNSUPPORTED_SASL_MECHANISM, ""),
        ("PLAIN", "\0alice\0guessed", ErrorCode::NONE, "Invalid username or password"),
        ("PLAIN", "\0bob\0secret", ErrorCode::NONE, "Invalid username or password"),
        ("PLAIN", "bob\0alice\0secret", ErrorCode::NONE, "authorization id"),
        ("PLAIN", "\0alice\0", ErrorCode::NONE, "not specified"),
        ("PLAIN", "alice secret", ErrorCode::NONE, "expected 3 tokens"),
        ("PLAIN", "", ErrorCode::NONE, "expected 3 tokens"),
    ] {
        let mut client = bench.client(0).await;
        assert_eq!(client.name(mechanism).await, code);
        if code == ErrorCode::NONE {
            let answer = client.say(token).await;
            assert_eq!(answer.error_code, ErrorCode::SASL_AUTHENTICATION_FAILED.0, "{token}");
            assert!(answer.error_message.unwrap().contains(expected), "{token}");
        }
        assert!(client.frame().await.is_err(), "{token}");
    }
    let mut client = bench.client(0).await;
    assert_eq!(client.say("\0alice\0secret").await.error_code, ErrorCode::ILLEGAL_SASL_STATE.0);
    // Somebody else cannot go on where one has logged in.
    bench.cluster.control().set_user("bob", "secret");
    let mut client = bench.client(0).await;
    client.log_in().await;
    client.name("PLAIN").await;
    let answer = client.say("\0bob\0secret").await;
    assert!(answer.error_message.unwrap().contains("Cannot change principals"));
}

#[tokio::test(start_paused = true)]
async fn a_listener_without_sasl_says_so() {
    let bench = Bench::start(Cluster::builder()).await;
    let mut client = bench.client(0).await;
    assert_eq!(client.name("PLAIN").await, ErrorCode::ILLEGAL_SASL_STATE);
    assert_eq!(client.say("x").await.error_code, ErrorCode::ILLEGAL_SASL_STATE.0);
    assert!(client.is_let_in().await);
}

#[tokio::test(start_paused = true)]
async fn users_of_scram_are_made_described_and_removed() {
    let bench = Bench::start(Cluster::builder().user("alice", "secret")).await;
    let mut client = bench.client(0).await;
    let upsertion = |name: &str, mechanism, iterations| ScramCredentialUpsertion {
        name: name.into(),
        mechanism,
        iterations,
        salt: "salt".into(),
        salted_password: "salted".into(),
    };
    let deletion = |name: &str, mechanism| ScramCredentialDeletion { name: name.into(), mechanism };
    let request = AlterUserScramCredentialsRequest {
        deletions: vec![deletion("alice", 1), deletion("nobody", 1)],
        upsertions: vec![
            upsertion("bob", 2, 8_192),
            upsertion("few", 1, 4_095),
            upsertion("many", 1, 16_385),
            upsertion("odd", 3, 4_096),
            upsertion("twice", 1, 4_096),
            upsertion("twice", 1, 4_096),
            upsertion("", 1, 4_096),
        ],
    };
    let codes: Vec<_> = client
        .ask(&request, 0)
        .await
        .results
        .into_iter()
        .map(|result| (result.user.to_string(), ErrorCode(result.error_code)))
        .collect();
    let expected = [
        ("", ErrorCode::UNACCEPTABLE_CREDENTIAL),
        ("alice", ErrorCode::NONE),
        ("bob", ErrorCode::NONE),
        ("few", ErrorCode::UNACCEPTABLE_CREDENTIAL),
        ("many", ErrorCode::UNACCEPTABLE_CREDENTIAL),
        ("nobody", ErrorCode::RESOURCE_NOT_FOUND),
        ("odd", ErrorCode::UNSUPPORTED_SASL_MECHANISM),
        ("twice", ErrorCode::DUPLICATE_RESOURCE),
    ];
    assert_eq!(codes, expected.map(|(name, code)| (name.to_owned(), code)));
    let mut described = async |users: Option<&[&str]>| {
        let name = |name: &&str| UserName { name: (*name).into() };
        let users = users.map(|users| users.iter().map(name).collect());
        let response = client.ask(&DescribeUserScramCredentialsRequest { users }, 0).await;
        let infos = response.results.into_iter().map(|result| {
            let infos =
                result.credential_infos.iter().map(|info| (info.mechanism, info.iterations)).collect();
            (result.user.to_string(), ErrorCode(result.error_code), infos)
        });
        infos.collect::<Vec<(String, ErrorCode, Vec<(i8, i32)>)>>()
    };
    let alice = ("alice".to_owned(), ErrorCode::NONE, vec![(2, 4_096)]);
    let bob = ("bob".to_owned(), ErrorCode::NONE, vec![(2, 8_192)]);
    assert_eq!(described(None).await, [alice.clone(), bob.clone()]);
    assert_eq!(described(Some(&[])).await, [alice.clone(), bob]);
    let nobody = ("nobody".to_owned(), ErrorCode::RESOURCE_NOT_FOUND, vec![]);
    assert_eq!(described(Some(&["nobody", "alice"])).await, [alice, nobody]);
    let twice = ("bob".to_owned(), ErrorCode::DUPLICATE_RESOURCE, vec![]);
    assert_eq!(described(Some(&["bob", "bob"])).await, [twice]);
}
