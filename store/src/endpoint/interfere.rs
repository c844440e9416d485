//! What can happen to a request between a client and its bucket, decided request by request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use s3s::service::S3Service;
use s3s::{Body, HttpRequest, StdError};

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done and answered.
    Pass,
    /// The same, after a while.
    Late(Duration),
    /// It is not done, and answered with this HTTP status and S3 error code.
    Refused {
        /// As 503.
        status: u16,
        /// As `SlowDown`.
        code: &'static str,
    },
    /// It is not done, and answered with 200 and an error in the body.
    ErrorInOk,
    /// It is not done, and never answered.
    Silent,
    /// It is not done, and the connection breaks.
    Cut,
    /// It is done, and never answered.
    DoneThenSilent,
    /// It is done, and then the connection breaks.
    DoneThenCut,
    /// It is done; half of the answer's body is missing, and its length says so.
    Truncated,
    /// It is done; one bit in the middle of the answer's body is another.
    BitFlipped,
}

/// Decides about requests, and is told what was done.
pub trait Interference: Send + Sync {
    /// What becomes of this request for `path` (`/bucket/key`).
    fn fate(&self, method: &Method, path: &str) -> Fate;

    /// It was done, with this status, whatever its client will be told.
    fn done(&self, method: &Method, path: &str, status: StatusCode);
}

/// No interference.
pub(super) struct Nothing;

impl Interference for Nothing {
    fn fate(&self, _: &Method, _: &str) -> Fate {
        Fate::Pass
    }

    fn done(&self, _: &Method, _: &str, _: StatusCode) {}
}

/// Answers one request.
pub(super) async fn answer(
    service: S3Service,
    interference: Arc<dyn Interference>,
    request: http::Request<Incoming>,
) -> Result<Response<Body>, StdError> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let fate = interference.fate(&method, &path);
    match fate {
        Fate::Refused { status, code } => return error(status, code),
        Fate::ErrorInOk => return error(200, "InternalError"),
        Fate::Silent => return std::future::pending().await,
        Fate::Cut => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
        Fate::Late(wait) => tokio::time::sleep(wait).await,
        _ => {}
    }
    let request: HttpRequest = request.map(Body::from);
    let response = service.call(request).await.map_err(StdError::from)?;
    interference.done(&method, &path, response.status());
    match fate {
        Fate::DoneThenSilent => std::future::pending().await,
        Fate::DoneThenCut => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
        Fate::Truncated => altered(response, |body| body.truncate(body.len() / 2)).await,
        Fate::BitFlipped => altered(response, flip).await,
        _ => Ok(response),
    }
}

fn flip(body: &mut BytesMut) {
    let middle = body.len() / 2;
    if let Some(byte) = body.get_mut(middle) {
        *byte ^= 1;
    }
}

fn error(status: u16, code: &str) -> Result<Response<Body>, StdError> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>interference</Message></Error>"
    );
    let response = Response::builder().status(status).header("content-type", "application/xml");
    Ok(response.body(Body::from(text))?)
}

async fn altered(
    response: Response<Body>,
    alter: impl FnOnce(&mut BytesMut),
) -> Result<Response<Body>, StdError> {
    let (mut parts, body) = response.into_parts();
    let mut bytes = collect(body).await?;
    alter(&mut bytes);
    parts.headers.insert(http::header::CONTENT_LENGTH, bytes.len().into());
    Ok(Response::from_parts(parts, Body::from(bytes.freeze())))
}

async fn collect(mut body: Body) -> Result<BytesMut, StdError> {
    let mut bytes = BytesMut::new();
    loop {
        let frame = std::future::poll_fn(|context| {
            http_body::Body::poll_frame(Pin::new(&mut body), context)
        });
        match frame.await {
            Some(frame) => {
                let data: Bytes = frame?.into_data().unwrap_or_default();
                bytes.extend_from_slice(&data);
            }
            None => return Ok(bytes),
        }
    }
}
