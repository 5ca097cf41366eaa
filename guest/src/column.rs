//! Reading and writing columns.

use crate::raw::plugin::rivven::connect::source::Column;

impl Column {
    /// Item `index`. The host keeps the rules of the contract; a trap is right if it did not.
    #[inline]
    pub(crate) fn item(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.data[start as usize..self.ends[index] as usize]
    }

    /// Ends the item that was written to `data` since the last end.
    #[inline]
    pub(crate) fn end_item(&mut self) {
        // A column cannot outgrow a u32: the address space of a component has 32 bits.
        self.ends.push(self.data.len() as u32);
    }

    /// Appends an item.
    #[inline]
    pub(crate) fn append(&mut self, item: &[u8]) {
        self.data.extend_from_slice(item);
        self.end_item();
    }

    /// Appends item `index` to a column that has no items at all until one is not empty, as most plugins never set a key or
    /// a topic; `expected` is how many there may be.
    #[inline]
    pub(crate) fn append_sparse(&mut self, index: usize, expected: usize, item: &[u8]) {
        if self.ends.is_empty() {
            if item.is_empty() {
                return;
            }
            self.ends.reserve(expected);
            self.ends.resize(index, 0);
        }
        self.append(item);
    }

    /// Keeps the first `items`.
    pub(crate) fn truncate(&mut self, items: usize) {
        self.ends.truncate(items);
        self.data.truncate(self.ends.last().map_or(0, |&end| end as usize));
    }
}

impl Default for Column {
    /// Without items.
    fn default() -> Self {
        Self { data: Vec::new(), ends: Vec::new() }
    }
}
