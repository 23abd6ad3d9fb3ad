//! `extends`: what one file says on top of what another says.
//!
//! As in tsconfig: the extended file is read first, then this file's keys win; objects (`overrides`, the map of prebuilt
//! libraries) merge key by key; lists are replaced. Models merge by `model_id`: an entry with an id that is there already
//! changes that model, another is added behind. Null removes a key; a model whose `model` is null is removed as a whole.

use crate::written::{Field, Given, Written, WrittenModel, WrittenOverride, WrittenPrebuilt};

/// Puts `over` on top of `base`.
pub(crate) fn merge(base: Written, over: Written) -> Written {
    Written {
        span: over.span,
        extends: over.extends,
        extends_wrong: over.extends_wrong,
        device: field(base.device, over.device),
        models: combine(base.models, over.models, models),
        prebuilt: combine(base.prebuilt, over.prebuilt, prebuilt),
        target_devices: field(base.target_devices, over.target_devices),
        increased_memory_limit: field(base.increased_memory_limit, over.increased_memory_limit),
        app_reserve_bytes: field(base.app_reserve_bytes, over.app_reserve_bytes),
    }
}

/// Drops what null removes, once nothing is left to extend.
pub(crate) fn without_nulls(written: Written) -> Written {
    let nothing = Written {
        device: None,
        models: None,
        prebuilt: None,
        target_devices: None,
        increased_memory_limit: None,
        app_reserve_bytes: None,
        ..written.clone()
    };
    merge(nothing, written)
}

/// The value on top wins; null leaves nothing.
fn field<T>(base: Option<Field<T>>, over: Option<Field<T>>) -> Option<Field<T>> {
    match over {
        None => base,
        Some(Field { given: Given::Null, .. }) => None,
        over => over,
    }
}

/// As [`field`], but two right values merge.
fn combine<T>(
    base: Option<Field<Vec<T>>>,
    over: Option<Field<Vec<T>>>,
    merge: fn(Vec<T>, Vec<T>) -> Vec<T>,
) -> Option<Field<Vec<T>>> {
    let over = match over {
        None => return base,
        Some(Field { given: Given::Null, .. }) => return None,
        Some(over) => over,
    };
    let below = match base.map(|base| base.given) {
        Some(Given::Value(below)) => below,
        _ => Vec::new(),
    };
    let given = match over.given {
        Given::Value(above) => Given::Value(merge(below, above)),
        wrong => wrong,
    };
    Some(Field { given, ..over })
}

fn models(mut below: Vec<WrittenModel>, above: Vec<WrittenModel>) -> Vec<WrittenModel> {
    for model in above {
        let id = |model: &WrittenModel| match &model.model_id {
            Some(Field { given: Given::Value(id), .. }) => Some(id.clone()),
            _ => None,
        };
        let place = id(&model).and_then(|wanted| below.iter().position(|known| id(known).as_ref() == Some(&wanted)));
        let removed = matches!(&model.model, Some(Field { given: Given::Null, .. }));
        match place {
            Some(place) if removed => drop(below.remove(place)),
            Some(place) => {
                let base = below[place].clone();
                below[place] = merge_model(Some(base), model);
            }
            None if removed => {}
            None => below.push(merge_model(None, model)),
        }
    }
    below
}

fn merge_model(base: Option<WrittenModel>, over: WrittenModel) -> WrittenModel {
    let Some(base) = base else {
        let nothing = WrittenModel {
            span: over.span,
            model: None,
            model_id: None,
            estimated_vram_bytes: None,
            bundle_weight: None,
            overrides: None,
            model_lib: None,
            quantization: None,
        };
        return merge_model(Some(nothing), over);
    };
    WrittenModel {
        span: over.span,
        model: field(base.model, over.model),
        model_id: field(base.model_id, over.model_id),
        estimated_vram_bytes: field(base.estimated_vram_bytes, over.estimated_vram_bytes),
        bundle_weight: field(base.bundle_weight, over.bundle_weight),
        overrides: combine(base.overrides, over.overrides, overrides),
        model_lib: field(base.model_lib, over.model_lib),
        quantization: field(base.quantization, over.quantization),
    }
}

fn overrides(mut below: Vec<WrittenOverride>, above: Vec<WrittenOverride>) -> Vec<WrittenOverride> {
    for over in above {
        below.retain(|known| known.name != over.name);
        if over.field.given != Given::Null {
            below.push(over);
        }
    }
    below
}

fn prebuilt(mut below: Vec<WrittenPrebuilt>, above: Vec<WrittenPrebuilt>) -> Vec<WrittenPrebuilt> {
    for over in above {
        below.retain(|known| known.prefix != over.prefix);
        if over.field.given != Given::Null {
            below.push(over);
        }
    }
    below
}
