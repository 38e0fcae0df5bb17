//! What a handler fails with: any error, and what is known of it.

use std::error::Error as StdError;
use std::fmt;

use crate::error::Chain;
use crate::producer::ProduceError;
use crate::{Error, ErrorKind};

/// What handlers return.
pub type HandlerResult<T = (), E = HandlerError> = Result<T, E>;

/// The error of a handler. Anything becomes one with `?`: errors of `std`, serde, sqlx and anyhow, an [`Error`], a
/// [`ProduceError`], a text.
///
/// An [`Error`] stays what it is, kind, code and advice included; any other error is the source of one of kind
/// [`ErrorKind::Handler`]. Like `anyhow::Error`, this is not itself a [`std::error::Error`].
///
/// ```
/// use carafe::prelude::*;
///
/// async fn import(order: Message<Text>) -> HandlerResult {
///     let (id, path) = order.payload()?.split_once(' ').ok_or("an order is an id and a path")?;
///     let id: u64 = id.parse()?;
///     println!("order {id} has {} bytes", std::fs::read(path)?.len());
///     Ok(())
/// }
/// ```
pub struct HandlerError(Error);

impl HandlerError {
    /// The error as events and dead letters show it.
    pub fn error(&self) -> &Error {
        &self.0
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let error = match error.into().downcast::<Error>() {
            Ok(own) => return Self(*own),
            Err(other) => other,
        };
        Self(match error.downcast::<ProduceError>() {
            Ok(produce) => (*produce).into(),
            Err(other) => Error::new(ErrorKind::Handler, "the handler failed").with_source(other),
        })
    }
}

impl From<HandlerError> for Error {
    fn from(error: HandlerError) -> Self {
        error.0
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Chain(&self.0).fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;
    use crate::producer::Outcome;

    /// As sqlx and others make theirs: an enum that wraps what is behind it.
    #[derive(Debug)]
    struct Database(std::io::Error);

    impl fmt::Display for Database {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the pool is exhausted")
        }
    }

    impl StdError for Database {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    fn handled<T, E>(result: Result<T, E>) -> Error
    where
        HandlerError: From<E>,
    {
        let handler = || -> HandlerResult {
            result?;
            Ok(())
        };
        handler().expect_err("it fails").into()
    }

    fn io() -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::NotFound, "no such file")
    }

    #[test]
    fn any_error_is_one_of_a_handler() {
        let errors = [
            (handled::<(), _>(Err(io())), "the handler failed: no such file"),
            (handled(serde_json::from_str::<u8>("{")), "the handler failed: invalid type: map, expected u8"),
            (
                handled::<(), _>(Err(Database(io()))),
                "the handler failed: the pool is exhausted: no such file",
            ),
            (handled::<(), _>(Err(anyhow::Error::new(io()))), "the handler failed: no such file"),
            (
                handled(Err::<(), _>(anyhow::Error::new(io()).context("the receipt"))),
                "the handler failed: the receipt: no such file",
            ),
            (handled("x".parse::<u8>()), "the handler failed: invalid digit found in string"),
            (handled::<(), _>(Err("no such order")), "the handler failed: no such order"),
            (handled::<(), _>(Err(format!("order {} is gone", 7))), "the handler failed: order 7 is gone"),
        ];
        for (error, text) in errors {
            assert_eq!(error.kind(), ErrorKind::Handler);
            assert!(Chain(&error).to_string().starts_with(text), "{}", Chain(&error));
        }
        let error = handled::<(), _>(Err(Database(io())));
        assert!(
            error.source().is_some_and(|source| source.is::<Database>()),
            "the error itself is behind it"
        );
    }

    #[test]
    fn our_own_errors_stay_what_they_are() {
        let ours = || Error::from_code(ErrorCode::TOPIC_AUTHORIZATION_FAILED, "an order");
        for error in [handled::<(), _>(Err(ours())), handled::<(), HandlerError>(Err(ours().into()))] {
            assert_eq!((error.kind(), error.code()), (ours().kind(), ours().code()));
            assert_eq!(error.advice(), ours().advice());
        }
        let unsure = handled::<(), _>(Err(ProduceError::new(ours(), Outcome::Unknown)));
        assert_eq!(unsure.kind(), ours().kind());
        assert_eq!(ProduceError::of(&unsure).map(ProduceError::outcome), Some(Outcome::Unknown));
        let wrapped = handled::<(), _>(Err(anyhow::Error::new(ours()).context("the receipt")));
        assert_eq!((wrapped.kind(), wrapped.advice()), (ErrorKind::Handler, ours().advice()));
    }
}
