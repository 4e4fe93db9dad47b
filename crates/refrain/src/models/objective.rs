//! What training makes smaller, and what a text is scored by.

use burn::tensor::{Int, Tensor};

use super::language_model::LanguageModel;
use super::state::LanguageModelState;
use crate::nn::{
    DropoutSchedule, Linear, SmoothedCrossEntropy, activation_regularisation, select_rows, smoothed_cross_entropy,
    temporal_activation_regularisation,
};

/// What training makes smaller beside the plain cross entropy, or in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Regularisation {
    /// α, what the mean square of the last layer's outputs after dropout costs: activation regularisation (Merity et al. 2018,
    /// section 4.6).
    pub activation: f64,
    /// β, what that of the differences between consecutive outputs before dropout costs: temporal activation regularisation.
    pub temporal: f64,
    /// Of the probability of a target, what is spread over all words (Szegedy et al. 2016, section 7).
    pub label_smoothing: f64,
}

/// The tokens that the softmax of a window is over, in the place of the whole vocabulary: sampled softmax (Jean et al. 2015).
///
/// The score of each is lowered by the logarithm of the probability with which it is a candidate. The softmax over the
/// candidates is then the probability of each to be the target, given that the target is one of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    /// Their ids, ascending.
    pub ids: Vec<u32>,
    /// What is added to the score of each: minus that logarithm.
    pub corrections: Vec<f32>,
}

impl Candidates {
    /// The places of these tokens among the candidates.
    ///
    /// # Panics
    /// If one is no candidate.
    pub fn places(&self, tokens: &[u32]) -> Vec<u32> {
        let place = |token| self.ids.binary_search(token).expect("a target is a candidate") as u32;
        tokens.iter().map(place).collect()
    }

    /// The rows of the candidates, with their corrections.
    fn of(&self, head: &Linear) -> (Tensor<2>, Tensor<1>) {
        let device = head.bias.val().device();
        let ids: Vec<i32> = self.ids.iter().map(|&id| id as i32).collect();
        let ids = Tensor::<1, Int>::from_data(ids.as_slice(), &device);
        let corrections = Tensor::<1>::from_data(self.corrections.as_slice(), &device);
        (select_rows(head.weight.val(), ids.clone()), head.bias.val().select(0, ids) + corrections)
    }
}

/// What training makes smaller over a window.
#[derive(Clone, Debug)]
pub struct Objective {
    /// The mean cross entropy in nats with smoothed targets, `[1]`.
    pub loss: Tensor<1>,
    /// The same without smoothing and without gradients: what losses are compared by.
    pub cross_entropy: Tensor<1>,
    /// What the penalties add to it, `[1]`, if there are any.
    pub penalty: Option<Tensor<1>>,
}

impl LanguageModel {
    /// The mean cross entropy in nats, `[1]`, and the state after the window.
    ///
    /// # Shapes
    /// - `inputs`, `targets`: `[batch_size, seq_len]`
    pub fn loss(
        &self,
        inputs: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: Option<LanguageModelState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<1>, LanguageModelState) {
        let (objective, state) = self.objective(inputs, targets, state, schedule, Regularisation::default(), None);
        (objective.loss, state)
    }

    /// The same with smoothed targets, and penalties on the outputs of the last layer. Shapes as [`LanguageModel::loss`]. With
    /// `candidates` the softmax is over them alone, and `targets` are places among them.
    pub fn objective(
        &self,
        inputs: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: Option<LanguageModelState>,
        schedule: Option<DropoutSchedule>,
        regularisation: Regularisation,
        candidates: Option<&Candidates>,
    ) -> (Objective, LanguageModelState) {
        let ([output, dropped], state) = self.features(inputs, state, schedule);
        let Regularisation { activation, temporal, label_smoothing } = regularisation;
        let of_activation = (activation > 0.0).then(|| activation_regularisation(dropped.clone(), None) * activation);
        let of_change = (temporal > 0.0).then(|| temporal_activation_regularisation(output, None) * temporal);
        let penalty = match (of_activation, of_change) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        let head = self.linear();
        let (weight, bias) = match candidates {
            Some(candidates) => candidates.of(&head),
            None => (head.weight.val(), head.bias.val()),
        };
        let SmoothedCrossEntropy { smoothed, plain } = smoothed_cross_entropy(
            head.precision,
            rows(dropped),
            (weight, bias),
            targets.flatten(0, 1),
            label_smoothing,
        );
        (Objective { loss: smoothed, cross_entropy: plain, penalty }, state)
    }

    /// The cross entropy of every token in nats, `[batch_size * seq_len]`, without dropout. Shapes as
    /// [`LanguageModel::loss`].
    pub fn token_losses(
        &self,
        inputs: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: Option<LanguageModelState>,
    ) -> (Tensor<1>, LanguageModelState) {
        let ([_, features], state) = self.features(inputs, state, None);
        (self.linear().token_losses(rows(features), targets.flatten(0, 1)), state)
    }
}

/// `[batch_size * seq_len, hidden_size]`.
fn rows(steps: Tensor<3>) -> Tensor<2> {
    let [batch_size, seq_len, hidden_size] = steps.dims();
    steps.reshape([batch_size * seq_len, hidden_size])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::models::LanguageModelConfig;
    use crate::nn::values;

    fn window(device: &Device) -> [Tensor<2, Int>; 2] {
        let tokens = |shift: i32| {
            let ids: Vec<i32> = (0..12).map(|at| (at * 5 + shift) % 7).collect();
            Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 6]), device)
        };
        [tokens(0), tokens(3)]
    }

    #[test]
    fn penalties_are_those_of_the_layers_outputs() {
        let device = Device::flex();
        let config =
            LanguageModelConfig { embedding_size: 4, hidden_size: 4.into(), output_dropout: 0.5, ..Default::default() };
        let model = config.init(7, 1, &device);
        let schedule = Some(DropoutSchedule::new(9, 4));
        let penalty = |regularisation| {
            let [inputs, targets] = window(&device);
            let (objective, _) = model.objective(inputs, targets, None, schedule, regularisation, None);
            objective.penalty.map(|penalty| values(penalty)[0])
        };
        assert_eq!(penalty(Regularisation::default()), None);
        let ([output, dropped], _) = model.features(window(&device)[0].clone(), None, schedule);
        let square = |tensor: Tensor<3>| values(tensor.square().mean())[0];
        let change = square(output.clone().narrow(1, 1, 5) - output.narrow(1, 0, 5));
        for (activation, temporal) in [(2.0, 0.0), (0.0, 1.0), (2.0, 1.0)] {
            let found = penalty(Regularisation { activation, temporal, label_smoothing: 0.1 }).expect("a penalty");
            let expected = activation as f32 * square(dropped.clone()) + temporal as f32 * change;
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    #[test]
    fn a_softmax_over_candidates_is_over_their_corrected_scores() {
        let device = Device::flex().autodiff();
        for tied_embeddings in [false, true] {
            let config = LanguageModelConfig {
                embedding_size: 4,
                hidden_size: 4.into(),
                tied_embeddings,
                ..LanguageModelConfig::default()
            };
            let model = config.init(7, 1, &device);
            let candidates = Candidates { ids: vec![0, 3, 4, 6], corrections: vec![0.0, 0.5, 2.0, 0.25] };
            let ids: Vec<u32> = vec![3, 0, 4, 4, 3, 6, 0, 3, 4, 6, 6, 0];
            let places = candidates.places(&ids).into_iter().map(|place| place as i32).collect::<Vec<_>>();
            let [inputs, _] = window(&device);
            let targets = Tensor::<2, Int>::from_data(TensorData::new(places.clone(), [2, 6]), &device);
            let (objective, _) =
                model.objective(inputs.clone(), targets, None, None, Regularisation::default(), Some(&candidates));

            let scores = model.linear().forward(rows(model.features(inputs, None, None).0[1].clone()));
            let scores = values(scores.inner());
            let expected = places.iter().zip(scores.chunks(7)).map(|(&place, scores)| {
                let corrected = candidates.ids.iter().zip(&candidates.corrections);
                let corrected: Vec<f32> = corrected.map(|(&id, correction)| scores[id as usize] + correction).collect();
                corrected.iter().map(|score| score.exp()).sum::<f32>().ln() - corrected[place as usize]
            });
            let expected = expected.sum::<f32>() / 12.0;
            let found = values(objective.loss.clone().inner())[0];
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");

            let gradients = objective.loss.backward();
            let head = model.head.weight.as_ref().unwrap_or(&model.embedding.weight);
            let rows = values(head.val().grad(&gradients).expect("reached"));
            let reached: Vec<u32> =
                (0..7).filter(|&id| rows[4 * id as usize..][..4].iter().any(|x| *x != 0.0)).collect();
            // Where the embedding is the head, what is read has a gradient too: here every token is.
            assert_eq!(reached, if tied_embeddings { (0..7).collect() } else { candidates.ids.clone() });
        }
    }
}
