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
pub fn create(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut partial = partial_file(folder)?;
    partial.write_all(contents)?;
    partial.as_file().sync_all()?;
    match partial.persist_noclobber(path) {
        Ok(_) => sync_folder(folder),
        Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => Err(failed.error),
        // Some file systems (FUSE, SMB, exFAT) can neither rename without replacing nor link.
        Err(_) => create_in_place(path, contents),
    }
}

/// The same without a rename: a crash in the middle leaves the beginning of the file, which readers have to tell from the whole.
fn create_in_place(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(contents)?;
    file.sync_all()?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
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
        let folder = tempfile::tempdir().unwrap();
        for (name, create) in [("a", create as fn(&Path, &[u8]) -> io::Result<()>), ("b", create_in_place)] {
            let path = folder.path().join(name);
            create(&path, b"first").unwrap();
            assert_eq!(create(&path, b"second").unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"first");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left behind");
    }
}
