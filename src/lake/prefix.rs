//! A folder of a store as a store. `object_store` 0.13's own `PrefixStore` gives the whole path where it is asked for one object, and
//! DataFusion, which compares that path with the one it asked for, then reads a table as empty.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result,
};

/// Everything below a prefix, by paths that begin there.
#[derive(Debug)]
pub struct Folder<T>(PrefixStore<T>);

impl<T: ObjectStore> Folder<T> {
    pub fn new(store: T, prefix: Path) -> Folder<T> {
        Folder(PrefixStore::new(store, prefix))
    }
}

impl<T: ObjectStore> fmt::Display for Folder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl<T: ObjectStore> ObjectStore for Folder<T> {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.0.get_opts(location, options).await?;
        found.meta.location = location.clone();
        Ok(found)
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn an_object_has_the_path_that_it_was_asked_for_by() {
        let folder = Folder::new(InMemory::new(), Path::from("a/b"));
        let path = Path::from("c/d");
        folder.put(&path, "x".into()).await.unwrap();
        assert_eq!(folder.head(&path).await.unwrap().location, path);
        assert_eq!(folder.get(&path).await.unwrap().meta.location, path);
        assert_eq!(folder.list_with_delimiter(Some(&Path::from("c"))).await.unwrap().objects[0].location, path);
    }
}
