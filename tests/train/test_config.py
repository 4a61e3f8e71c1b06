import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from sft_data.config_file import settings_table
from sft_data.errors import ConfigError, MissingExtraError
from sft_data.train import LoraSettings, RandomModel, TrainConfig, load_train_config, train
from sft_data.train import run as run_module
from sft_data.train.config import model_folder

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    return path


def test_importing_the_room_imports_no_torch():
    code = "import sys, sft_data.train, sft_data.evaluate; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_load_train_config_with_many_mistakes_tells_all_at_once(tmp_path: Path):
    text = "model: {architecture: llama, hiden_size: 8}\nlearing_rate: 1\nprecision: fp16\nbatch_packs: 0\n"
    with pytest.raises(ConfigError) as caught:
        load_train_config(write(tmp_path, text))
    message = str(caught.value)
    for told in ("did you mean 'hidden_size'?", "did you mean 'learning_rate'?", "found 'fp16'", "batch_packs"):
        assert told in message


def test_load_train_config_of_the_tiny_pipeline_describes_a_random_model():
    config = load_train_config(PIPELINES / "train_tiny.yaml")
    assert isinstance(config.model, RandomModel)
    assert config.max_steps is not None


def test_config_with_steps_and_epochs_is_refused():
    with pytest.raises(ValidationError, match="give one of the two"):
        TrainConfig(model="m", max_steps=3, epochs=1)


def test_config_with_adapter_settings_for_full_training_is_refused():
    with pytest.raises(ValidationError, match="method: lora"):
        TrainConfig(model="m", lora=LoraSettings(r=4))


def test_config_with_adapters_and_new_embeddings_is_refused():
    with pytest.raises(ValidationError, match="leave new embeddings untrained"):
        TrainConfig(model="m", method="lora", new_tokens="resize")


def test_random_model_whose_heads_do_not_divide_its_width_is_refused():
    with pytest.raises(ValidationError, match="must be a multiple"):
        RandomModel(hidden_size=60, heads=4)


@pytest.mark.parametrize("model", [TrainConfig, LoraSettings, RandomModel])
def test_every_setting_is_described_in_one_sentence(model: type):
    for name, field in model.model_fields.items():
        assert field.description, name
        assert not field.description.endswith("."), name


def test_train_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch, version: Path, tmp_path: Path):
    monkeypatch.setattr(run_module, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"sft-data\[train\]"):
        train(TrainConfig(model="m"), version, tmp_path)


def test_model_folder_of_a_cached_hub_model_is_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra `train`")
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("1" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_folder("someone/tiny") == str(snapshot)


def test_model_folder_of_a_run_is_the_model_in_it(tmp_path: Path):
    assert model_folder(str(tmp_path)) == str(tmp_path)
    (tmp_path / "training.json").write_text("{}")
    assert model_folder(str(tmp_path)) == str(tmp_path / "model")


def test_documentation_lists_every_setting_as_it_is():
    page = (PIPELINES.parent / "sft_data" / "train" / "README.md").read_text(encoding="utf-8")
    assert settings_table(TrainConfig) in page


def test_training_file_in_the_documentation_loads(tmp_path: Path):
    page = (PIPELINES.parent / "sft_data" / "train" / "README.md").read_text(encoding="utf-8")
    text = page.split("```yaml\n")[1].split("```")[0]
    assert load_train_config(write(tmp_path, text)).method == "lora"


def test_learning_rate_without_a_point_is_a_number(tmp_path: Path):
    assert load_train_config(write(tmp_path, "model: m\nlearning_rate: 2e-5\n")).learning_rate == 2e-5
