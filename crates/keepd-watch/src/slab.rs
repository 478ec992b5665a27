//! Watchers by slot: dense, so that finding one costs no search, with freed slots used again.

/// Index of a value in a [`Slab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u32);

/// Values by slot.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    values: Vec<Option<T>>,
    free: Vec<Slot>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }

    pub(crate) const fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = Slot(u32::try_from(self.values.len()).expect("watchers are bounded"));
            self.values.push(None);
            slot
        });
        self.values[slot.0 as usize] = Some(value);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> T {
        let value = self.values[slot.0 as usize].take().expect("the slot is in use");
        self.free.push(slot);
        value
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        (0..).map(Slot).zip(&self.values).filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }
}

impl<T> std::ops::Index<Slot> for Slab<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        self.values[slot.0 as usize].as_ref().expect("the slot is in use")
    }
}

impl<T> std::ops::IndexMut<Slot> for Slab<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        self.values[slot.0 as usize].as_mut().expect("the slot is in use")
    }
}
