//! A lake over another: it reads what the other holds, and what is written to it goes to a folder of its own. For trying out what stages would make.

use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

use super::Lake;

impl Lake {
    /// This lake with a draft over it: commits go to the folder, and nothing reaches the lake itself.
    pub fn draft(&self, folder: &FilePath) -> Result<Lake> {
        let above = LocalFileSystem::new_with_prefix(folder);
        let above = above.with_context(|| format!("cannot write to the temporary folder `{}`", folder.display()))?;
        Ok(Lake::on(Arc::new(Draft { above, below: self.store() }), &self.location))
    }
}

#[derive(Debug)]
struct Draft {
    above: LocalFileSystem,
    below: Arc<dyn ObjectStore>,
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a draft over {}", self.below)
    }
}

#[async_trait]
impl ObjectStore for Draft {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        match self.above.get_opts(location, options.clone()).await {
            Err(Error::NotFound { .. }) => self.below.get_opts(location, options).await,
            found => found,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        match self.above.get_ranges(location, ranges).await {
            Err(Error::NotFound { .. }) => self.below.get_ranges(location, ranges).await,
            found => found,
        }
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.above.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.above.put_multipart_opts(location, options).await
    }

    /// Removes from the draft alone.
    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.above.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.below.list(prefix).chain(self.above.list(prefix)).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.below.list_with_offset(prefix, offset).chain(self.above.list_with_offset(prefix, offset)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        let mut listed = self.below.list_with_delimiter(prefix).await?;
        let above = self.above.list_with_delimiter(prefix).await?;
        listed.objects.extend(above.objects);
        listed.common_prefixes.extend(above.common_prefixes);
        listed.common_prefixes.sort();
        listed.common_prefixes.dedup();
        Ok(listed)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        Err(Error::NotImplemented { operation: "copy".to_owned(), implementer: self.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::lake::Lineage;

    #[tokio::test]
    async fn commits_to_a_draft_leave_the_lake_as_it_was() {
        let lake = Lake::open("memory://").await.unwrap();
        let lineage = Lineage::new("air", serde_json::json!({ "cap": 1 })).unwrap();
        let first = lake.begin("air", "b").await.unwrap().commit(lineage, BTreeMap::new()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let draft = lake.draft(folder.path()).unwrap();
        assert_eq!(draft.manifest("air", "b").await.unwrap().unwrap().run_id, first.run_id, "it reads the lake");

        let run = draft.begin("air", "b").await.unwrap();
        let lineage = Lineage::new("air", serde_json::json!({ "cap": 2 })).unwrap();
        let second = run.commit(lineage, BTreeMap::new()).await.unwrap();
        assert_eq!(second.version, first.version + 1);
        assert_eq!(draft.manifest("air", "b").await.unwrap().unwrap().run_id, second.run_id);
        assert_eq!(lake.manifest("air", "b").await.unwrap().unwrap().run_id, first.run_id);
        for file in &second.tables["air_rewards"].files {
            assert!(draft.store().get_opts(&Path::from(file.path.as_str()), GetOptions::default()).await.is_ok());
            assert!(lake.store().get_opts(&Path::from(file.path.as_str()), GetOptions::default()).await.is_err());
        }
    }
}
