//! Records that were inserted with the same fields are sealed and opened alike: what follows from the fields alone is
//! found once, and used until a record with other fields comes.

use super::cells::{Bound, FieldsHash, fields_hash};
use super::{FieldTag, SealError};
use crate::blazebinary::{FieldNo, RawValue};
use crate::history::write_group_fields;

/// Of records that are sealed.
#[derive(Default)]
pub(super) struct SealShape {
    /// The fields of the body.
    body: Vec<FieldNo>,
    /// Places in the body of what stays readable,
    open: Vec<usize>,
    /// and of what is sealed, ascending by tag.
    sealed: Vec<usize>,
    pub(super) hash: FieldsHash,
    /// The group's fields as a history has them.
    pub(super) fields: Vec<u8>,
}

impl SealShape {
    /// Makes it that of a body with these fields; `tag` says which of them are sealed.
    pub(super) fn fit(
        &mut self,
        values: &[(FieldNo, RawValue<'_>)],
        tag: impl Fn(FieldNo) -> Option<FieldTag>,
    ) {
        if values.iter().map(|(field, _)| field).eq(&self.body) {
            return;
        }
        self.body = values.iter().map(|(field, _)| *field).collect();
        let tags = (0..).zip(&self.body).map(|(at, field)| (tag(*field), at, *field));
        let (mut sealed, open): (Vec<_>, Vec<_>) = tags.partition(|(tag, ..)| tag.is_some());
        sealed.sort_unstable();
        self.open = open.into_iter().map(|(_, at, _)| at).collect();
        self.sealed = sealed.iter().map(|(_, at, _)| *at).collect();
        let mut bound = Vec::new();
        sealed.iter().filter_map(|(tag, ..)| *tag).for_each(|tag| Bound::written(tag).write(&mut bound));
        self.hash = fields_hash(&bound);
        self.fields.clear();
        write_group_fields(sealed.iter().map(|(.., field)| *field), &mut self.fields);
    }

    /// The fields of a body of this shape that stay readable.
    pub(super) fn open<'a, 'v>(
        &'a self,
        values: &'a [(FieldNo, RawValue<'v>)],
    ) -> impl Iterator<Item = &'a (FieldNo, RawValue<'v>)> {
        self.open.iter().filter_map(|at| values.get(*at))
    }

    /// The fields that are sealed, in the order of the group.
    pub(super) fn sealed<'a, 'v>(
        &'a self,
        values: &'a [(FieldNo, RawValue<'v>)],
    ) -> impl Iterator<Item = &'a (FieldNo, RawValue<'v>)> {
        self.sealed.iter().filter_map(|at| values.get(*at))
    }
}

/// Of groups that are opened.
pub(super) struct OpenShape {
    /// The group's fields as a history has them.
    pub(super) fields: Vec<u8>,
    /// The fields, and their places in the group, ascending by number.
    places: Vec<(FieldNo, usize)>,
    pub(super) hash: FieldsHash,
}

impl OpenShape {
    /// That of no group.
    pub(super) const fn new() -> Self {
        Self { fields: Vec::new(), places: Vec::new(), hash: [0; 32] }
    }

    /// That of a group with these `numbers`, which stand as `fields` in its history.
    ///
    /// # Errors
    /// Those of `tag`.
    pub(super) fn of(
        fields: &[u8],
        numbers: &[FieldNo],
        tag: impl Fn(FieldNo) -> Result<FieldTag, SealError>,
    ) -> Result<Self, SealError> {
        let mut shape = Self { fields: fields.to_vec(), ..Self::new() };
        let mut bound = Vec::new();
        for number in numbers {
            Bound::written(tag(*number)?).write(&mut bound);
        }
        shape.hash = fields_hash(&bound);
        shape.places = numbers.iter().copied().zip(0..).collect();
        shape.places.sort_unstable();
        Ok(shape)
    }

    /// How many fields such a group has.
    pub(super) const fn len(&self) -> usize {
        self.places.len()
    }

    /// The values of a group of this shape by field.
    pub(super) fn by_field<'v>(
        &self,
        values: &[RawValue<'v>],
    ) -> impl Iterator<Item = (FieldNo, RawValue<'v>)> {
        self.places.iter().filter_map(|(field, at)| Some((*field, *values.get(*at)?)))
    }
}
