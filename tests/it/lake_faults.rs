//! Commits on a store that fails in the ways that stores do.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fulgurite::exit::{ExitCode, code_of};
use fulgurite::lake::Lake;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::lake::{run, steps, values};
use crate::policies::commit_policy;

/// What goes wrong, from the moment it is armed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    /// The next manifest is stored, but the answer is lost, and the client's own second try finds it there.
    AnswerLost,
    /// The next manifest is stored, but the answer is lost and no second try gets through.
    AnswerLostForGood,
    /// The next manifest is not stored.
    ManifestRefused,
    /// No data file is stored.
    DataRefused,
    /// Listings show nothing that was put after this one was armed.
    ListingLags,
    /// Conditional puts are treated as plain ones.
    ConditionIgnored,
}

#[derive(Debug)]
struct Troubled {
    inner: InMemory,
    trouble: Trouble,
    armed: AtomicBool,
    listed_before: Mutex<Vec<Path>>,
    /// What was asked for, found or not.
    asked: Mutex<Vec<String>>,
}

impl Troubled {
    fn new(trouble: Trouble) -> Arc<Troubled> {
        Arc::new(Troubled {
            inner: InMemory::new(),
            trouble,
            armed: AtomicBool::new(false),
            listed_before: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    async fn arm(&self) {
        let listed: Vec<_> = self.inner.list(None).collect().await;
        *self.listed_before.lock().unwrap() = listed.into_iter().map(|meta| meta.unwrap().location).collect();
        self.armed.store(true, Ordering::SeqCst);
    }

    fn strikes(&self, troubles: &[Trouble]) -> bool {
        troubles.contains(&self.trouble) && self.armed.load(Ordering::SeqCst)
    }
}

fn broken(what: &str) -> Error {
    Error::Generic { store: "troubled", source: what.into() }
}

#[async_trait]
impl ObjectStore for Troubled {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let is_manifest = location.as_ref().starts_with("_manifests/");
        if self.strikes(&[Trouble::ConditionIgnored]) {
            options.mode = PutMode::Overwrite;
        }
        if self.strikes(&[Trouble::DataRefused]) && !is_manifest || self.strikes(&[Trouble::ManifestRefused]) && is_manifest {
            return Err(broken("503"));
        }
        let lost = is_manifest && self.strikes(&[Trouble::AnswerLost, Trouble::AnswerLostForGood]);
        let answer = self.inner.put_opts(location, payload.clone(), options.clone()).await;
        match (lost, self.trouble) {
            (true, Trouble::AnswerLost) => self.inner.put_opts(location, payload, options).await,
            (true, _) => Err(broken("connection reset")),
            _ => answer,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.asked.lock().unwrap().push(location.to_string());
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let known = self.strikes(&[Trouble::ListingLags]).then(|| self.listed_before.lock().unwrap().clone());
        let shown = move |meta: &Result<ObjectMeta>| {
            let shown = known.as_ref().is_none_or(|known| meta.as_ref().is_ok_and(|meta| known.contains(&meta.location)));
            futures::future::ready(shown)
        };
        self.inner.list(prefix).filter(shown).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for Troubled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Troubled({:?})", self.trouble)
    }
}

/// A lake with one commit of five rows, on a store that is in trouble from then on.
async fn troubled(trouble: Trouble) -> (Arc<Troubled>, Lake) {
    let store = Troubled::new(trouble);
    let lake = Lake::on(Arc::clone(&store) as Arc<dyn ObjectStore>, "memory://troubled");
    run(&lake, "b", &values(0, 5), 1).await.unwrap();
    store.arm().await;
    (store, lake)
}

/// However many batches there are: a loop asks several times an iteration.
#[tokio::test]
async fn a_policy_is_found_without_reading_what_holds_none() {
    let store = Troubled::new(Trouble::ListingLags); // and never armed
    let lake = Lake::on(Arc::clone(&store) as Arc<dyn ObjectStore>, "memory://");
    for batch in ["a", "b", "c"] {
        run(&lake, batch, &values(0, 5), 1).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    commit_policy(&lake, "0000", 0, None, folder.path()).await.unwrap();

    let asked = || std::mem::take(&mut *store.asked.lock().unwrap());
    let fresh = Lake::on(Arc::clone(&store) as Arc<dyn ObjectStore>, "memory://");
    let manifest = |version: u64| format!("_manifests/policy/0000/v{version:08}.json");
    asked();
    assert_eq!(fresh.policy(None).await.unwrap().version, 0);
    assert_eq!(asked(), [manifest(2), manifest(1)]);
    fresh.policy(None).await.unwrap();
    assert_eq!(asked(), [manifest(2)], "what was read once is known; whether there is a later one is not");
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_ours() {
    for trouble in [Trouble::AnswerLost, Trouble::AnswerLostForGood] {
        let (_, lake) = troubled(trouble).await;
        let manifest = run(&lake, "b", &values(0, 6), 2).await.unwrap();
        assert_eq!((manifest.version, steps(&lake, "b").await.len()), (2, 6), "{trouble:?}");
    }
}

#[tokio::test]
async fn a_store_that_fails_leaves_the_old_state_and_asks_to_try_again() {
    for trouble in [Trouble::ManifestRefused, Trouble::DataRefused] {
        let (_, lake) = troubled(trouble).await;
        let error = run(&lake, "b", &values(0, 6), 2).await.unwrap_err();
        assert_eq!(code_of(&error), ExitCode::TryAgain, "{error:#}");
        assert_eq!((lake.manifest("values", "b").await.unwrap().unwrap().version, steps(&lake, "b").await.len()), (1, 5));
    }
}

#[tokio::test]
async fn a_listing_that_lags_hides_no_commit() {
    let (_, lake) = troubled(Trouble::ListingLags).await;
    for setting in 2..5 {
        run(&lake, "b", &values(0, setting.into()), setting).await.unwrap();
    }
    let manifest = lake.manifest("values", "b").await.unwrap().unwrap();
    assert_eq!((manifest.version, manifest.tables["values"].rows), (4, 4));
    assert_eq!(lake.manifests().await.unwrap(), [manifest]);
    // A batch that no listing shows yet is found by its name.
    run(&lake, "new", &values(0, 2), 1).await.unwrap();
    assert_eq!(steps(&lake, "new").await, [0, 1]);
}

#[tokio::test]
async fn a_store_without_conditional_puts_is_refused() {
    let (_, lake) = troubled(Trouble::ConditionIgnored).await;
    let error = lake.check().await.unwrap_err();
    assert_eq!(code_of(&error), ExitCode::Failed);
    assert!(error.to_string().contains("ignores `If-None-Match`"), "{error}");
    assert!(lake.store().list(Some(&Path::from("_check"))).next().await.is_none(), "the test object is gone");
}

/// A directory on a file system without links can hold the beginning of a manifest, from a run that was killed while it wrote it.
#[tokio::test]
async fn half_a_manifest_is_none() {
    let (store, lake) = troubled(Trouble::ListingLags).await;
    store.inner.put(&Path::from("_manifests/values/b/v00000002.json"), "{\"format\": \"fulgur".into()).await.unwrap();
    store.arm().await;
    assert_eq!(steps(&lake, "b").await.len(), 5);
    assert_eq!(run(&lake, "b", &values(0, 6), 2).await.unwrap().version, 3);
    assert_eq!(steps(&lake, "b").await.len(), 6);
}
