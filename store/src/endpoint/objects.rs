//! The S3 operations, each answered by one call of the `object_store` underneath.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload,
};
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, ETag, ETagCondition, GetObjectInput, GetObjectOutput,
    HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object,
    PutObjectInput, PutObjectOutput, Range, StreamingBlob, Timestamp,
};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::faults::Faults;
use super::memory::{Memory, Page};

/// S3's own page size.
const PAGE: usize = 1000;

pub(super) struct Objects {
    objects: Arc<dyn ObjectStore>,
    /// The same, where its names are in order.
    in_order: Option<Memory>,
    faults: Arc<Faults>,
}

impl Objects {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, faults: Arc<Faults>) -> Self {
        Self { objects, in_order: None, faults }
    }

    pub(super) fn in_order(bucket: Memory, faults: Arc<Faults>) -> Self {
        Self { objects: Arc::new(bucket.clone()), in_order: Some(bucket), faults }
    }

    /// The object, or a range of it, and how large all of it is: of one and the same object, though it be replaced
    /// meanwhile.
    async fn get(&self, path: &Path, range: Option<&Range>) -> S3Result<(GetResult, bool)> {
        loop {
            let meta = self.objects.head(path).await.map_err(answer)?;
            let range = range.map(|range| satisfiable(range, meta.size)).transpose()?;
            let partial = range.is_some();
            let options = GetOptions { range, if_match: meta.e_tag, ..GetOptions::default() };
            match self.objects.get_opts(path, options).await {
                Ok(object) => return Ok((object, partial)),
                Err(Error::Precondition { .. }) => {}
                Err(error) => return Err(answer(error)),
            }
        }
    }

    /// So many of the bucket's objects, by key, and whether there are more.
    async fn page(
        &self,
        bucket: &str,
        prefix: &str,
        after: &str,
        most: usize,
    ) -> S3Result<(Vec<(String, ObjectMeta)>, bool)> {
        if let Some(objects) = &self.in_order {
            let named = |key: &str| format!("{bucket}/{key}");
            let Page { objects, more } = objects.page(&named(prefix), &named(after), most);
            let keyed = objects.into_iter().map(|meta| (key_of(bucket, &meta), meta));
            return Ok((keyed.collect(), more));
        }
        let mut objects: Vec<(String, ObjectMeta)> = self
            .objects
            .list(Some(&Path::from(bucket)))
            .map_ok(|meta| (key_of(bucket, &meta), meta))
            .try_filter(|(key, _)| {
                std::future::ready(key.starts_with(prefix) && key.as_str() > after)
            })
            .boxed()
            .try_collect()
            .await
            .map_err(answer)?;
        objects.sort_by(|a, b| a.0.cmp(&b.0));
        let more = objects.len() > most;
        objects.truncate(most);
        Ok((objects, more))
    }
}

#[async_trait::async_trait]
impl S3 for Objects {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.faults.pass()?;
        let input = request.input;
        let path = path(&input.bucket, &input.key)?;
        let mode = match input.if_none_match {
            None => PutMode::Overwrite,
            Some(ETagCondition::Any) => PutMode::Create,
            Some(ETagCondition::ETag(_)) => return Err(s3_error!(NotImplemented)),
        };
        // The whole body first, so that a request cut off half-way writes nothing.
        let payload: PutPayload = match input.body {
            Some(body) => {
                body.try_collect::<Vec<_>>().await.map_err(incomplete)?.into_iter().collect()
            }
            None => PutPayload::default(),
        };
        let options = PutOptions::from(mode);
        let written = self.objects.put_opts(&path, payload, options).await.map_err(answer)?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: etag(written.e_tag.as_deref()),
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.faults.pass()?;
        let input = request.input;
        let path = path(&input.bucket, &input.key)?;
        let (object, partial) = self.get(&path, input.range.as_ref()).await?;
        let (meta, sent) = (object.meta.clone(), object.range.clone());
        let bytes = object.bytes().await.map_err(answer)?;
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(signed(bytes.len() as u64)),
            content_range: partial
                .then(|| format!("bytes {}-{}/{}", sent.start, sent.end - 1, meta.size)),
            body: Some(StreamingBlob::from(Body::from(bytes))),
            e_tag: etag(meta.e_tag.as_deref()),
            last_modified: Some(modified(&meta)),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.faults.pass()?;
        let path = path(&request.input.bucket, &request.input.key)?;
        let meta = self.objects.head(&path).await.map_err(answer)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(signed(meta.size)),
            e_tag: etag(meta.e_tag.as_deref()),
            last_modified: Some(modified(&meta)),
            ..HeadObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.faults.pass()?;
        let path = path(&request.input.bucket, &request.input.key)?;
        match self.objects.delete(&path).await {
            Ok(()) | Err(Error::NotFound { .. }) => {
                Ok(S3Response::new(DeleteObjectOutput::default()))
            }
            Err(error) => Err(answer(error)),
        }
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.faults.pass()?;
        let input = request.input;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented));
        }
        let prefix = input.prefix.unwrap_or_default();
        // The continuation token is the last key of the page before.
        let after = input.continuation_token.or(input.start_after).unwrap_or_default();
        let most = input.max_keys.and_then(|n| usize::try_from(n).ok()).unwrap_or(PAGE).min(PAGE);
        let (objects, more) = self.page(&input.bucket, &prefix, &after, most).await?;
        let last = objects.last().map(|(key, _)| key.clone());
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(objects.len()).ok(),
            contents: Some(objects.into_iter().map(listed).collect()),
            is_truncated: Some(more),
            next_continuation_token: last.filter(|_| more),
            ..ListObjectsV2Output::default()
        }))
    }
}

fn path(bucket: &str, key: &str) -> S3Result<Path> {
    Path::parse(format!("{bucket}/{key}"))
        .map_err(|error| S3Error::with_message(S3ErrorCode::InvalidArgument, error.to_string()))
}

fn key_of(bucket: &str, meta: &ObjectMeta) -> String {
    let full = meta.location.as_ref();
    full.strip_prefix(bucket).unwrap_or(full).trim_start_matches('/').to_owned()
}

fn satisfiable(range: &Range, size: u64) -> S3Result<GetRange> {
    let range = range.check(size).map_err(S3Error::from)?;
    // S3 satisfies no range of an empty object, not even a suffix.
    if range.is_empty() {
        return Err(s3_error!(InvalidRange));
    }
    Ok(GetRange::Bounded(range))
}

fn listed((key, meta): (String, ObjectMeta)) -> Object {
    Object {
        e_tag: etag(meta.e_tag.as_deref()),
        key: Some(key),
        last_modified: Some(modified(&meta)),
        size: Some(signed(meta.size)),
        ..Object::default()
    }
}

fn etag(tag: Option<&str>) -> Option<ETag> {
    tag.map(|tag| ETag::Strong(tag.trim_matches('"').to_owned()))
}

fn modified(meta: &ObjectMeta) -> Timestamp {
    std::time::SystemTime::from(meta.last_modified).into()
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn incomplete(error: s3s::StdError) -> S3Error {
    S3Error::with_message(S3ErrorCode::IncompleteBody, error.to_string())
}

fn answer(error: Error) -> S3Error {
    let code = match &error {
        Error::NotFound { .. } => S3ErrorCode::NoSuchKey,
        Error::AlreadyExists { .. } => S3ErrorCode::PreconditionFailed,
        Error::InvalidPath { .. } => S3ErrorCode::InvalidArgument,
        _ => S3ErrorCode::InternalError,
    };
    S3Error::with_message(code, error.to_string())
}
