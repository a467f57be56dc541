"""Which fields of a DICOM file identify a person, a place, a time or an object: what is named when they are dropped."""

from __future__ import annotations

from typing import Any

PERSONAL_GROUPS = (0x0010, 0x0012, 0x0032, 0x0038)
"""Patient, clinical trial, requested study, visit: whatever stands there."""
PERSONAL_KINDS = ("PN", "DA", "DT", "TM")
"""Value representations: names of persons, dates, times."""
STANDARD_UIDS = "1.2.840.10008."
"""What identifiers of the standard itself begin with, such as those of classes; all others are of objects."""
HARMLESS = frozenset({"DeidentificationMethod", "ImplementationClassUID", "PatientIdentityRemoved"})
IDENTIFYING = frozenset({
    "AccessionNumber", "AcquisitionComments", "AcquisitionDeviceProcessingDescription",
    "AcquisitionProtocolDescription", "AdmittingDiagnosesCodeSequence", "AdmittingDiagnosesDescription", "Arbitrary",
    "CassetteID", "CommentsOnThePerformedProcedureStep", "ConfidentialityConstraintOnPatientDataDescription",
    "ContainerIdentifier", "ContributionDescription", "CustodialOrganizationSequence", "DerivationDescription",
    "DetectorID", "DeviceSerialNumber", "DeviceSettingDescription", "DigitalSignaturesSequence",
    "EncryptedAttributesSequence", "FillerOrderNumberImagingServiceRequest", "FrameComments", "GantryID", "GeneratorID",
    "IdentifyingComments", "ImageComments", "ImagePresentationComments", "ImagingServiceRequestComments",
    "InstitutionAddress", "InstitutionCodeSequence", "InstitutionName", "InstitutionalDepartmentName",
    "InterpretationDiagnosisDescription", "InterpretationText", "IssuerOfServiceEpisodeID", "LabelText",
    "MediaStorageSOPInstanceUID", "OrderCallbackPhoneNumber", "OrderEntererLocation", "OverlayComments", "OverlayData",
    "PerformedLocation", "PerformedProcedureStepDescription", "PerformedProcedureStepID", "PerformedStationAETitle",
    "PerformedStationName", "PersonAddress", "PersonIdentificationCodeSequence", "PersonTelephoneNumbers",
    "PlacerOrderNumberImagingServiceRequest", "PlateID", "PrivateInformation", "ProtocolName",
    "ReasonForTheImagingServiceRequest", "ReasonForTheRequestedProcedure", "ReceivingApplicationEntityTitle",
    "RequestAttributesSequence", "RequestedProcedureComments", "RequestedProcedureID", "RequestedProcedureLocation",
    "ResultsComments", "ResultsID", "RetrieveAETitle", "ScheduledProcedureStepDescription", "ScheduledProcedureStepID",
    "ScheduledProcedureStepLocation", "ScheduledStationAETitle", "ScheduledStationName", "ScheduledStudyLocation",
    "SendingApplicationEntityTitle", "SeriesDescription", "ServiceEpisodeDescription", "ServiceEpisodeID",
    "SlideIdentifier", "SourceApplicationEntityTitle", "SourceSerialNumber", "SpecimenIdentifier", "StationName",
    "StudyComments", "StudyDescription", "StudyID", "TextComments", "TextString", "TextValue", "UniqueDeviceIdentifier",
})  # fmt: skip
"""Further fields of the confidentiality profile of DICOM PS3.15 E: texts that people write, places, devices."""


def identifying(dataset: Any) -> set[str]:
    """The names of filled fields that identify, of a file's header and of all its sequences at any depth; private ones
    by their group.

    None is written. Three are used: PatientID for which cases are one person, SeriesInstanceUID for which files are one
    volume, SOPInstanceUID for which slice a segmentation was drawn on. Pixels are not touched.
    """
    return _named(getattr(dataset, "file_meta", None) or ()) | _named(dataset)


def _named(dataset: Any) -> set[str]:
    from pydicom.datadict import keyword_for_tag

    found: set[str] = set()
    for element in dataset.elements() if dataset else ():  # as they were read: iterating would decode their values
        tag = element.tag
        if _is_empty(element.value):
            continue
        if tag.is_private:
            found.add(f"private fields of group {tag.group:04X}")
            continue
        keyword, kind = keyword_for_tag(tag), _kind(element)
        if kind == "SQ":
            found |= _named_within(dataset, tag, keyword)
        is_named = keyword in IDENTIFYING or tag.group in PERSONAL_GROUPS or kind in PERSONAL_KINDS
        if keyword not in HARMLESS and (is_named or (kind == "UI" and not _is_of_the_standard(element.value))):
            found.add(keyword or str(tag))
    return found


def _named_within(dataset: Any, tag: Any, keyword: str) -> set[str]:
    from pydicom.sequence import Sequence

    try:
        items = dataset[tag].value
    except Exception:  # what damage raises differs; nothing of it is used, and what it holds cannot be told
        return {keyword or str(tag)}
    return set[str]().union(*map(_named, items)) if isinstance(items, Sequence) else {keyword or str(tag)}


def _kind(element: Any) -> str:
    """The value representation, of the dictionary where the file does not say."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    if element.VR in (None, "UN") and dictionary_has_tag(element.tag):
        return dictionary_VR(element.tag)
    return element.VR or "UN"


def _is_empty(value: Any) -> bool:
    if isinstance(value, bytes) and len(value) < 64:
        return not value.strip(b" \0")
    return value is None or (hasattr(value, "__len__") and not len(value))


def _is_of_the_standard(value: Any) -> bool:
    """All of the identifiers, one or several."""
    plain = value.decode("ascii", "replace").split("\\") if isinstance(value, bytes) else value
    return all(each.startswith(STANDARD_UIDS) for each in ([plain] if isinstance(plain, str) else plain))
