//! Finds the files of a tree, without following symbolic links and without leaving the file system.

use std::fs::{self, Metadata};
use std::io;
#[cfg(not(windows))]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files found.
#[derive(Debug, Default)]
pub struct Tree {
    /// Regular files, with their sizes as they were then, in the order of their names.
    pub files: Vec<(PathBuf, u64)>,
    /// Directories that could not be read.
    pub unreadable: u64,
    /// Files left out because the limit of bytes was reached.
    pub left_out: u64,
}

impl Tree {
    /// Sizes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }
}

/// Walks the tree under `root`, or takes `root` itself if it is a file, until the files found have
/// `bytes_max` bytes together.
///
/// # Errors
/// When `root` can't be read; what can't be read below it is counted.
pub fn walk(root: &Path, bytes_max: u64) -> io::Result<Tree> {
    let top = fs::metadata(root)?;
    let mut tree = Tree::default();
    let mut room = bytes_max;
    if top.is_file() {
        tree.files.push((root.to_owned(), top.len()));
        return Ok(tree);
    }
    let mut stack = vec![root.to_owned()];
    let mut first = true;
    while let Some(directory) = stack.pop() {
        let entries = match sorted(&directory) {
            Ok(entries) => entries,
            Err(error) if first => return Err(error),
            Err(_) => {
                tree.unreadable += 1;
                continue;
            }
        };
        first = false;
        for (path, data) in entries {
            #[cfg(not(windows))]
            let is_inside = data.dev() == top.dev();
            // Another volume is mounted by a link there.
            #[cfg(windows)]
            let is_inside = !data.is_symlink();
            if data.is_dir() && is_inside {
                stack.push(path);
            } else if data.is_file() && data.len() <= room {
                room -= data.len();
                tree.files.push((path, data.len()));
            } else if data.is_file() {
                tree.left_out += 1;
            }
        }
    }
    Ok(tree)
}

/// The entries of a directory by name; those that vanish meanwhile are left out.
fn sorted(directory: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        let Ok(entry) = entry else { continue };
        // Of the link, where it is one.
        if let Ok(data) = entry.metadata() {
            entries.push((entry.path(), data));
        }
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_files_and_not_links() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        fs::write(at("deep/b"), "bb").unwrap();
        fs::write(at("a"), "a").unwrap();
        #[cfg(not(windows))]
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        #[cfg(not(windows))]
        std::os::unix::fs::symlink(root.path(), at("deep/loop")).unwrap();
        let tree = walk(root.path(), u64::MAX).unwrap();
        assert_eq!(tree.files, [(at("a"), 1), (at("deep/b"), 2)]);
        assert_eq!((tree.bytes(), tree.left_out), (3, 0));
        let tree = walk(root.path(), 1).unwrap();
        assert_eq!((tree.files.len(), tree.left_out), (1, 1));
        assert!(walk(&at("absent"), 1).is_err());
    }
}
