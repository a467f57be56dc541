"""The report of what was dropped from DICOM headers is complete: sequences, kinds of values, private groups."""

import gzip

import numpy as np
import pytest

from tests.preparation_sources import description, noise, prepare, save, save_nifti, square, tree_hashes
from tests.test_preparation_dicom import dataset, mask_affine, volume
from tests.test_preparation_dicom_frames import items, liver_and_lesion, segmentation

pydicom = pytest.importorskip("pydicom")
SECRETS = {
    "ResponsiblePerson": "Secret^Parent",
    "PhysiciansOfRecord": "Secret^Doctor",
    "AdmissionID": "secret-1",
    "CurrentPatientLocation": "secret ward",
    "PatientInsurancePlanCodeSequence": items(CodeValue="secret-2"),
    "ClinicalTrialSubjectID": "secret-3",
    "ReasonForTheRequestedProcedure": "secret story",
    "ScheduledProcedureStepStartDate": "19990101",
}


def dropped(tmp_path, **fields) -> dict[str, int]:
    """What `fedlit prepare dicom` says to have dropped, of two pictures of which one has these fields."""
    root = tmp_path / "source" / "ward"
    root.mkdir(parents=True)
    for number, further in enumerate((fields, {})):
        found = dataset(noise(12, 10, seed=number).astype(np.uint16), patient=str(number), **further)
        block = found.private_block(0x0009, "SECRET MAKER", create=True)
        block.add_new(0x01, "LO", "secret-private")
        found.save_as(root / f"film{number}.dcm", enforce_file_format=True)
        save(root / f"film{number}_mask.png", square(12, 10))
    assert prepare("dicom", tmp_path / "source", tmp_path / "out") == 0
    for path, content in tree_hashes(tmp_path / "out").items():
        plain = gzip.decompress(content) if path.endswith(".gz") else content
        assert b"secret" not in plain.lower() and b"19990101" not in plain, path
    return description(tmp_path / "out")["dropped_fields"]


ALWAYS = {"InstitutionName", "MediaStorageSOPInstanceUID", "PatientBirthDate", "PatientID", "PatientName",
          "SOPInstanceUID", "SeriesInstanceUID", "private fields of group 0009"}  # fmt: skip


def test_all_fields_that_identify_are_named_and_no_others(tmp_path):
    found = dropped(tmp_path, **SECRETS, PatientIdentityRemoved="NO", StudyDate="", Manufacturer="Maker", KVP="120")
    assert {name for name, number in found.items() if number == 2} == ALWAYS
    assert set(found) - ALWAYS == set(SECRETS)


def test_sequences_are_looked_into_at_any_depth(tmp_path):
    inner = items(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID="1.2.3.4")
    study = items(ReferencedSeriesSequence=items(ReferencedInstanceSequence=inner, OperatorsName="Secret^Op"))
    found = dropped(tmp_path, ReferencedStudySequence=study, ProcedureCodeSequence=items(CodeMeaning="Thorax"))
    assert set(found) - ALWAYS == {"ReferencedSOPInstanceUID", "OperatorsName"}


@pytest.mark.parametrize("is_implicit", [True, False])
def test_what_a_file_says_is_the_same_in_every_syntax(is_implicit, tmp_path):
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    from fedlit.preparation.dicom_identity import identifying

    made = dataset(
        noise(12, 10).astype(np.uint16), RequestAttributesSequence=items(StudyInstanceUID="1.2.5"), **SECRETS
    )
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    expected = (ALWAYS - {"private fields of group 0009"}) | {*SECRETS, "RequestAttributesSequence", "StudyInstanceUID"}
    assert identifying(pydicom.dcmread(tmp_path / "a.dcm")) == identifying(made) == expected


def test_a_segmentation_is_looked_into_too(tmp_path):
    source, (liver, lesion) = tmp_path / "source" / "ward", liver_and_lesion()
    for number in range(2):
        volume(source / f"case{number}", number, patient=str(number))
        named = {"ContentCreatorName": "Secret^Reader"} if number else {}
        segmentation(source / f"case{number}_mask.dcm", {"liver": liver, "lesion": lesion}, **named)
    assert prepare("dicom", tmp_path / "source", tmp_path / "out", "--masks", "{site}/{case}_mask.dcm") == 0
    found = description(tmp_path / "out")["dropped_fields"]
    assert found["ContentCreatorName"] == 1 and found["SeriesDescription"] == 2


def test_every_name_of_the_list_is_one_of_the_standard():
    from pydicom.datadict import keyword_for_tag, tag_for_keyword

    from fedlit.preparation.dicom_identity import HARMLESS, IDENTIFYING

    overlays = {keyword_for_tag(0x60003000), keyword_for_tag(0x60004000)}
    assert {name for name in IDENTIFYING | HARMLESS if tag_for_keyword(name) is None} == overlays


def test_damaged_sequences_are_named_and_the_picture_is_used(tmp_path):
    root = tmp_path / "source" / "ward"
    volume(root / "case0", 0)
    for path in (root / "case0").iterdir():
        found = pydicom.dcmread(path)
        found.add_new("ProcedureCodeSequence", "OB", b"\xff" * 40)
        found.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"\x08\x00\x32\x10OB", b"\x08\x00\x32\x10SQ"))
    save_nifti(root / "case0_mask.nii.gz", square(4, 12, 10, value=1), affine=mask_affine())
    assert prepare("dicom", tmp_path / "source", tmp_path / "out") == 0
    assert description(tmp_path / "out")["dropped_fields"]["ProcedureCodeSequence"] == 1
