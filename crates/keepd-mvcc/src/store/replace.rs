//! Another store in the place of this one, while its readers go on.
//!
//! A member that is too far behind for the log gets a whole store from another one. Whoever holds a view
//! of the old one reads on, from files that are open; new views are the new store's. Jobs of the old one
//! that are out find its gate closed, and what they bring back is thrown away.

use std::sync::Arc;

use crate::error::Error;
use crate::store::Store;
use crate::store::in_place::Place;
use crate::view::View;

impl Store {
    /// Goes on in the store that `switch` gives the directory's name to. Views, hooks and look-outs that
    /// were handed out go on with it; what is not published here is forgotten. A kind of job that is out is handed out again
    /// only once it is back.
    ///
    /// # Errors
    /// Those of `switch`, or as those of [`Self::open`]. This store writes nothing any more then: the
    /// member has to stop, and its next start to find what it is.
    ///
    /// # Panics
    /// If the new store is behind this one.
    pub fn replace(
        &mut self,
        switch: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Arc<View>, Error> {
        self.assert_sound();
        let files = Arc::clone(&self.jobs.files);
        let dir = &files.dir;
        let place = Arc::clone(&self.place);
        let mut place = place.lock();
        // ORDER: nothing of this store creates or removes a file by a name that is the new one's.
        dir.gate.close();
        switch()?;
        let options = self.jobs.options.clone();
        keepd_env::failpoint!(ApplyBeforeOpenSnapshot);
        let mut store = Self::open(dir.outer_env(), &dir.path, dir.keys.clone(), options)?;
        keepd_env::failpoint!(ApplyAfterOpenSnapshot);
        let (old, new) = (&self.now, &store.now);
        assert!(new.applied >= old.applied, "the applied index never goes back");
        assert!(new.revision >= old.revision, "a revision is never taken back");
        store.take_over(self);
        if place.is_some() {
            *place = Some(Place::of(&store.jobs.files)?);
        }
        *self = store;
        self.assert_sound();
        Ok(self.views.load())
    }

    /// Takes over what was handed out by the store that it replaces.
    fn take_over(&mut self, old: &Self) {
        if let Some(hook) = old.jobs.files.dir.disk_full_hook.get() {
            self.set_disk_full_hook(hook.clone());
        }
        if let Some(reencryptor) = old.jobs.files.reencryptor.get() {
            self.set_reencryptor(reencryptor.clone());
        }
        self.jobs.expect_back(&old.jobs);
        let damages = self.views.damages.load_full();
        let view = self.views.load();
        self.views = old.views.clone();
        self.place = Arc::clone(&old.place);
        // ORDER: who sees damage in the new files has been shown them.
        self.views.newest.store(view);
        self.views.damages.store(damages);
    }
}

#[cfg(test)]
mod tests;
