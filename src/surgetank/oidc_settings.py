"""The settings of a login through an OpenID Connect provider; the others are in `settings.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


class OidcSettings(BaseSettings):
    """Settings of OpenID Connect. A part of `Settings`."""

    oidc_issuer: str | None = Field(
        None,
        max_length=2000,
        description="Address of the OpenID Connect provider through which people log in to the console; "
        "none: with tokens only.",
    )
    oidc_client_id: str = Field("", description="What the provider calls this server.")
    oidc_client_secret: SecretStr | None = Field(
        None, description="The secret that the provider gave with it; none for a public client."
    )
    oidc_scopes: str = Field("openid email profile", description="What is asked of the provider.")
    oidc_user_claim: str = Field(
        "email", min_length=1, description="The claim that is the user's name here."
    )
    oidc_role_claim: str = Field(
        "groups", min_length=1, description="The claim that says which role a user has."
    )
    oidc_roles: str = Field(
        "",
        description="Roles by values of that claim, separated by white space: `staff=user admins=admin`; "
        "the highest counts.",
    )
    oidc_default_role: Literal["viewer", "user", "reviewer", "operator"] | None = Field(
        None, description="The role of those who have none by that; none: they are refused."
    )
    oidc_session: float = Field(
        12 * 3600.0, gt=0, le=30 * 86_400, description="How long such a login is good."
    )
