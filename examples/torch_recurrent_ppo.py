"""Episodes that begin in the middle of a sequence, as in recurrent reinforcement learning.

An agent with an LSTM learns from sequences in which episodes end and others begin. At each begin
the LSTM must forget. torch.nn.LSTM cannot do that within a call, so RecurrentPPO of sb3-contrib
calls it step by step, with states that it multiplies by 1 - episode_start. fastlstm.torch.LSTM
takes the begins as `reset=`, and the whole sequence in one call.

Here poles are balanced on carts: an agent sees where cart and pole are, and needs an LSTM to know
how fast they move. The program records some episodes, runs both ways over them and compares
outputs, gradients and times:

    pip install ".[torch]"
    python examples/torch_recurrent_ppo.py

With sb3-contrib it also trains the real RecurrentPPO three times: as it is, with its LSTMs
accelerated and nothing else changed, and with a policy that overrides one method to use `reset=`.

    pip install sb3-contrib
    python examples/torch_recurrent_ppo.py

On one thread the recorded episodes take a second, and RecurrentPPO's trainings half a minute.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import fastlstm.torch

POLES, STEPS, HIDDEN = 8, 128, 256  # RecurrentPPO's own n_steps and lstm_hidden_size
States = tuple[torch.Tensor, torch.Tensor]


class Pole:
    """A pole on a cart, which an agent pushes to the left or to the right.

    The equations and limits are those of gymnasium's CartPole-v1 (Barto, Sutton and Anderson,
    1983), which shows the speeds as well.
    """

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Begin an episode; return the place of the cart and the angle of the pole (2,)."""
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.steps, self.state = 0, self.rng.uniform(-0.05, 0.05, 4)
        return self.state[::2].astype("float32"), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Push for 0.02 s; return what is seen, the reward, and whether the episode is over."""
        place, speed, angle, turn = self.state
        force = 10 if action == 1 else -10
        push = (force + 0.05 * turn**2 * np.sin(angle)) / 1.1
        turning = 9.8 * np.sin(angle) - np.cos(angle) * push
        turning /= 0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1)
        moving = push - 0.05 * turning * np.cos(angle) / 1.1
        self.state = self.state + 0.02 * np.array([speed, moving, turn, turning])
        self.steps += 1
        fallen = abs(self.state[0]) > 2.4 or abs(self.state[2]) > np.radians(12)
        return self.state[::2].astype("float32"), 1.0, bool(fallen), self.steps >= 500, {}


def record() -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is seen of poles pushed at random (T, B, 2), and episode_starts (T, B)."""
    rng = np.random.default_rng(0)
    seen = np.empty((STEPS, POLES, 2), np.float32)
    starts = np.zeros((STEPS + 1, POLES), np.float32)
    for number in range(POLES):
        pole = Pole()
        now, _ = pole.reset(seed=number)
        starts[0, number] = 1
        for step in range(STEPS):
            seen[step, number] = now
            now, _, fallen, late, _ = pole.step(rng.integers(2))
            if fallen or late:
                now, _ = pole.reset()
                starts[step + 1, number] = 1
    return torch.from_numpy(seen), torch.from_numpy(starts[:-1])


def step_by_step(
    lstm: torch.nn.LSTM, x: torch.Tensor, states: States, starts: torch.Tensor
) -> tuple[torch.Tensor, States]:
    """Return output (T, B, H) and last states, as `_process_sequence` of sb3-contrib does."""
    output = []
    for step, start in zip(x, starts, strict=True):
        keep = (1.0 - start).view(1, -1, 1)
        hidden, states = lstm(step.unsqueeze(0), (keep * states[0], keep * states[1]))
        output.append(hidden)
    return torch.cat(output), states


def at_once(
    lstm: fastlstm.torch.LSTM, x: torch.Tensor, states: States, starts: torch.Tensor
) -> tuple[torch.Tensor, States]:
    """Return the same by one call."""
    return lstm(x, states, reset=starts.bool())


def compare() -> dict[str, dict[str, Any]]:
    """Run both ways over the recorded episodes; print, and return results and seconds of each."""
    x, starts = record()
    print(f"{POLES} poles, {STEPS} steps, {int(starts.sum())} episodes\n")
    torch.manual_seed(0)
    slow = torch.nn.LSTM(2, HIDDEN)
    fast = fastlstm.torch.LSTM(2, HIDDEN)
    fast.load_state_dict(slow.state_dict())
    states = torch.randn(1, POLES, HIDDEN), torch.randn(1, POLES, HIDDEN)  # nobody may read them
    weight = torch.randn(STEPS, POLES, HIDDEN)  # a loss: the weighted sum of all outputs

    def run(way: Callable[..., tuple[torch.Tensor, States]], lstm: torch.nn.LSTM) -> dict[str, Any]:
        lstm.zero_grad()
        begin = time.perf_counter()
        output, (h, c) = way(lstm, x, states, starts)
        middle = time.perf_counter()
        (output * weight).sum().backward()
        end = time.perf_counter()
        results = {"output": output, "h_n": h, "c_n": c}
        results |= {f"gradient of {name}": p.grad for name, p in lstm.named_parameters()}
        return results | {"forward": middle - begin, "both": end - begin}

    ways = {"step by step": (step_by_step, slow), "with reset=": (at_once, fast)}
    found = {way: run(*how) for way, how in ways.items()}
    for name, expected in found["step by step"].items():
        if isinstance(expected, torch.Tensor):
            off = (found["with reset="][name] - expected).abs().max() / expected.abs().max()
            print(f"{name:25} differs by {off:.0e} of its largest value")

    print(f"\n{'':14}{'forward ms':>12}{'and backward':>14}")
    runs = [{way: run(*how) for way, how in ways.items()} for _ in range(5)]
    for way in ways:
        forward, both = (
            1e3 * statistics.median(r[way][t] for r in runs) for t in ("forward", "both")
        )
        print(f"{way:14}{forward:12.1f}{both:14.1f}")
    return found


def train(steps: int) -> dict[str, dict[str, float]]:
    """Train RecurrentPPO in three ways; print, and return the loss and the seconds of each."""
    import gymnasium
    from sb3_contrib import RecurrentPPO
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from stable_baselines3.common.env_util import make_vec_env

    class Environment(Pole, gymnasium.Env):
        """A pole, as gymnasium describes it."""

        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
        action_space = gymnasium.spaces.Discrete(2)

    class Accelerated(RecurrentActorCriticPolicy):
        """RecurrentPPO's policy, with the engine's LSTMs."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            fastlstm.torch.accelerate(self)

    class WithReset(Accelerated):
        """The same, and sequences in one call."""

        @staticmethod
        def _process_sequence(
            features: torch.Tensor,
            lstm_states: States,
            episode_starts: torch.Tensor,
            lstm: fastlstm.torch.LSTM,
        ) -> tuple[torch.Tensor, States]:
            sequences = lstm_states[0].shape[1]
            x = features.reshape(sequences, -1, lstm.input_size).swapaxes(0, 1)
            starts = episode_starts.reshape(sequences, -1).swapaxes(0, 1)
            output, states = lstm(x, lstm_states, reset=starts.bool())
            return output.swapaxes(0, 1).flatten(0, 1), states

    policies = {
        "as it is": RecurrentActorCriticPolicy,
        "accelerated": Accelerated,
        "with reset=": WithReset,
    }
    found = {}
    for way, policy in policies.items():
        poles = make_vec_env(Environment, POLES, seed=0)
        model = RecurrentPPO(
            policy, poles, n_steps=STEPS, n_epochs=4, seed=0, device="cpu",
            policy_kwargs={"lstm_hidden_size": HIDDEN},
        )  # fmt: skip
        begin = time.perf_counter()
        model.learn(steps)
        seconds = time.perf_counter() - begin
        lengths = [episode["l"] for episode in model.ep_info_buffer]
        found[way] = {
            "loss": model.logger.name_to_value["train/loss"],
            "length": float(np.mean(lengths)),
            "seconds": seconds,
        }
    print(f"\nRecurrentPPO, {steps} steps\n")
    print(f"{'':14}{'seconds':>10}{'last loss':>14}{'steps upright':>16}")
    for way, row in found.items():
        print(f"{way:14}{row['seconds']:10.1f}{row['loss']:14.7f}{row['length']:16.1f}")
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Compare, train if sb3-contrib is there, and return the figures of both."""
    parser = argparse.ArgumentParser(description="Episodes in sequences, with and without reset=")
    parser.add_argument("--steps", type=int, default=4096, help="of RecurrentPPO's training (4096)")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {"recorded": compare()}
    if importlib.util.find_spec("sb3_contrib"):
        figures["trained"] = train(options.steps)
    else:
        print("\nFor RecurrentPPO itself: pip install sb3-contrib")
    return figures


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
