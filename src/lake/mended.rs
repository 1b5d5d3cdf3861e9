//! Stores whose answer to "give me this object" is not what our readers need, and is mended on the way. All else is passed on.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// A store, and what becomes of its answer about an object, given the path that was asked for.
#[derive(Debug)]
pub struct Mended<S> {
    store: S,
    mend: fn(&Path, Result<GetResult>) -> Result<GetResult>,
}

/// A store of which only files that were committed are read: one that a manifest names and that is not there is an error. DataFusion takes
/// "not found" for an empty folder, and would read a table with a lost file as one with fewer rows.
pub fn committed(store: Arc<dyn ObjectStore>) -> Mended<Arc<dyn ObjectStore>> {
    Mended {
        store,
        mend: |_, found| {
            found.map_err(|error| match error {
                Error::NotFound { path, .. } => {
                    let source =
                        format!("`{path}` was committed and is gone; run the stage that wrote it again with `--rebuild`");
                    Error::Generic { store: "lake", source: source.into() }
                }
                other => other,
            })
        },
    }
}

/// Everything below a prefix, by paths that begin there. `object_store` 0.13's own `PrefixStore` gives the whole path where it is asked for one
/// object, and DataFusion, which compares that path with the one it asked for, then reads a table as empty.
pub fn folder<S: ObjectStore>(store: S, prefix: Path) -> Mended<PrefixStore<S>> {
    Mended {
        store: PrefixStore::new(store, prefix),
        mend: |location, found| {
            let mut found = found?;
            found.meta.location = location.clone();
            Ok(found)
        },
    }
}

impl<S: ObjectStore> fmt::Display for Mended<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.store, f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for Mended<S> {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        (self.mend)(location, self.store.get_opts(location, options).await)
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_lost_file_is_no_empty_folder() {
        let store = committed(Arc::new(InMemory::new()));
        let error = store.head(&Path::from("calls/batch=b/part-x.parquet")).await.unwrap_err();
        assert!(!matches!(error, Error::NotFound { .. }), "{error}");
        assert!(error.to_string().contains("was committed and is gone"), "{error}");
    }

    #[tokio::test]
    async fn an_object_has_the_path_that_it_was_asked_for_by() {
        let folder = folder(InMemory::new(), Path::from("a/b"));
        let path = Path::from("c/d");
        folder.put(&path, "x".into()).await.unwrap();
        assert_eq!(folder.head(&path).await.unwrap().location, path);
        assert_eq!(folder.get(&path).await.unwrap().meta.location, path);
        assert_eq!(folder.list_with_delimiter(Some(&Path::from("c"))).await.unwrap().objects[0].location, path);
    }
}
