//! Durable writes to a directory: `object_store` 0.13 never calls fsync, so a lake on a disk writes for itself.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// What a file is called until it is complete.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// A file that is not there under its name yet, in the folder where it will be, and gone if it is dropped.
pub fn partial_file(folder: &Path) -> io::Result<NamedTempFile> {
    // Temporary files are private by default; these stay, so they get what the umask allows.
    Builder::new().prefix(".").suffix(PARTIAL_SUFFIX).permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}

/// Writes a file that must not be there yet: whole and on the disk, or not at all. `ErrorKind::AlreadyExists` where it is there.
///
/// * `path`: relative to `root`; its folders are made and made durable.
pub fn create(root: &Path, path: &str, contents: &[u8]) -> io::Result<()> {
    let path = root.join(path);
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder)?;
    let mut partial = partial_file(folder)?;
    partial.write_all(contents)?;
    partial.as_file().sync_all()?;
    match partial.persist_noclobber(&path) {
        Ok(_) => {}
        Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => return Err(failed.error),
        // Some file systems (FUSE, SMB, exFAT) can neither rename without replacing nor link.
        Err(_) => create_in_place(&path, contents)?,
    }
    folder.ancestors().take_while(|folder| folder.starts_with(root)).try_for_each(sync_folder)
}

/// The same without a rename: a crash in the middle leaves the beginning of the file, which readers have to tell from the whole.
fn create_in_place(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_created_once_by_either_way() {
        let root = tempfile::tempdir().unwrap();
        let in_place = |root: &Path, path: &str, contents: &[u8]| create_in_place(&root.join(path), contents);
        for (path, create) in [("a/b/c", create as fn(&Path, &str, &[u8]) -> io::Result<()>), ("a/b/d", in_place)] {
            create(root.path(), path, b"first").unwrap();
            assert_eq!(create(root.path(), path, b"second").unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read(root.path().join(path)).unwrap(), b"first");
        }
        assert_eq!(fs::read_dir(root.path().join("a/b")).unwrap().count(), 2, "nothing else is left behind");
    }
}
