//! Units that stages found, by the name of the stage.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::store::Store;
use crate::{Error, Result};

/// The units of every stage that is done. Two are equal if they are the same files.
#[derive(Clone, Debug, Default)]
pub struct Units {
    stores: BTreeMap<String, Arc<Store<u32>>>,
    /// Whether a stage that is not done gives zeros, which is enough to measure time.
    blank: bool,
}

impl PartialEq for Units {
    fn eq(&self, other: &Self) -> bool {
        let same = |((name, one), (other, two)): ((_, &Arc<_>), (_, &Arc<_>))| {
            let (name, other): (&String, &String) = (name, other);
            name == other && Arc::ptr_eq(one, two)
        };
        self.blank == other.blank
            && self.stores.len() == other.stores.len()
            && self.stores.iter().zip(&other.stores).all(same)
    }
}

impl Units {
    /// Units that are all 0, for timing.
    pub fn blank() -> Self {
        Self { stores: BTreeMap::new(), blank: true }
    }

    /// Adds what the stage `name` found.
    pub fn insert(&mut self, name: String, store: Store<u32>) {
        self.stores.insert(name, Arc::new(store));
    }

    /// What the stage `name` found; none where zeros will do.
    ///
    /// # Errors
    /// When it is not done.
    pub fn get(&self, name: &str) -> Result<Option<&Store<u32>>> {
        match self.stores.get(name) {
            Some(store) => Ok(Some(store)),
            None if self.blank => Ok(None),
            None => Err(Error::failed(format!("the stage `{name}` has found no units yet"))
                .hint("`pretext train` runs the stages in their order")),
        }
    }
}
